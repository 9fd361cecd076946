"""`ventifs export`."""

import sys
from pathlib import Path

import click

import ventifs
from ventifs.cli.output import echo
from ventifs.cli.progress import EntryProgress
from ventifs.cli.store_option import store_option
from ventifs.cli.versions.browse import find_path
from ventifs.errors import VentifsError
from ventifs.text import command_word, printable

_LEFT = 3  # exit code: exported, but not everything
_SHOWN_MAX = 20


@click.command(short_help="Write a version as a tar stream.")
@click.argument("what", metavar="VERSION[:PATH]")
@store_option
def export(what: str, *, store: Path) -> int:
    """Write a version, or a part of one, as a tar stream on standard output.

    It is a POSIX tar, which GNU tar unpacks with `tar -x --xattrs --xattrs-include='*'` to the same
    tree, and bsdtar too. A directory becomes `./`, a single file `./` and its name. Every block is
    verified. Sockets, which a tar cannot hold, are left out and told, and give exit code 3.
    """
    if sys.stdout.isatty():
        raise VentifsError(
            "a tar stream is not for terminals: redirect it, as in "
            f"'ventifs export {command_word(what)} > NAME.tar', or pipe it"
        )
    with EntryProgress("exporting") as progress, ventifs.open(store) as archive:
        done = find_path(archive, what).export(
            sys.stdout.buffer,
            progress=lambda done, path: progress(done.entries, done.size, path),
        )
        sys.stdout.buffer.flush()
    for left, reason in done.left[:_SHOWN_MAX]:
        echo(f"{printable(left)}: left out: {reason}", err=True)
    if len(done.left) > _SHOWN_MAX:
        echo(f"... and {len(done.left) - _SHOWN_MAX:,} more", err=True)
    return _LEFT if done.left else 0

"""`ventifs copy`."""

from collections.abc import Sequence
from pathlib import Path

import click

import ventifs
from ventifs import Archive, ArchivedVersion, Copied, CopiedAll, NotCopied
from ventifs.cli.formatting import count, size
from ventifs.cli.output import echo, print_json
from ventifs.cli.progress import EntryProgress
from ventifs.cli.store_option import json_option, store_option, wait_option
from ventifs.cli.versions.list_versions import as_json_object
from ventifs.errors import Corrupt, NotStored, VentifsError
from ventifs.text import printable
from ventifs.tree.versions.chosen import is_pattern
from ventifs.tree.versions.copy import CopiedBlocks

_PARTLY = 3


@click.command(short_help="Copy versions into another store.")
@click.argument("wanted", nargs=-1, metavar="[VERSION...|PATTERN...]")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="STORE",
    type=click.Path(readable=False, path_type=Path),
    help="The store they go into; it must be there.",
)
@store_option
@wait_option
@json_option
@click.option("--all", "every", is_flag=True, help="All versions: of every name, or of each NAME.")
@click.option("--name", help="What to call them there, if they have one name.  [default: its name]")
@click.option(
    "--repair",
    is_flag=True,
    help="Of many: also look at versions that are there, and send blocks that are missing.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be copied; reads no data.")
def copy(
    wanted: tuple[str, ...],
    target: Path,
    *,
    store: Path,
    wait_s: float | None,
    as_json: bool,
    every: bool,
    name: str | None,
    repair: bool,
    dry_run: bool,
) -> int:
    """Copy versions into another store, which gets only what it lacks.

    Copies each VERSION; for a PATTERN over names, such as 'web*', all versions of the names that
    match, or with a time ('web*@latest') that one of each; with --all every version, or all of each
    NAME. Time, comment, tags and source stay as they are. A version that is there already, with
    another comment or other tags, gets those that it has here.

    An interrupted copy is taken up by doing it again. Of many, versions that are there already are
    passed over at once, unless --repair is given, or a comment or tag changed; one VERSION by
    itself is always looked at, and lost blocks are made good. Versions that are damaged, or
    forgotten meanwhile, or whose name and time have another tree in the other store, are left out
    and listed; the exit code is then 3.
    """
    if not wanted and not every:
        raise click.UsageError("name the versions to copy, or say --all")
    alone = len(wanted) == 1 and not every and not is_pattern(wanted[0])
    with ventifs.open(store) as archive:
        if target.exists() and target.samefile(store):
            raise VentifsError(
                f"{printable(target)}: this is the store the version is in; name another"
            )
        if alone:
            _copy_one(archive, wanted[0], target, name, wait_s, as_json=as_json, dry_run=dry_run)
            return 0
        texts = wanted if every else [_one_version(text) for text in wanted]
        shown = _Shown(target, dry_run=dry_run, quiet=as_json)
        with (
            EntryProgress("copying", quiet=as_json, things=("block", "blocks")) as progress,
            ventifs.open(target, "read" if dry_run else "write", wait_s=wait_s) as receiving,
        ):
            done = archive.copy_all(
                receiving,
                *texts,
                name=name,
                repair=repair,
                dry_run=dry_run,
                progress=lambda done, at: progress(done.blocks, done.new_bytes, f"{at}".encode()),
                report=shown,
            )
    if as_json:
        _print_json(done, dry_run=dry_run)
    else:
        shown.end(done)
    return _PARTLY if done.left else 0


def _one_version(text: str) -> str:
    """A text that means one version, if it is no pattern: a bare name means its latest."""
    return text if is_pattern(text) or set("@:") & set(text) else f"{text}@latest"


def _copy_one(
    archive: Archive,
    wanted: str,
    target: Path,
    name: str | None,
    wait_s: float | None,
    *,
    as_json: bool,
    dry_run: bool,
) -> None:
    version = archive.version(wanted)
    with (
        EntryProgress("copying", quiet=as_json, things=("block", "blocks")) as progress,
        ventifs.open(target, "read" if dry_run else "write", wait_s=wait_s) as receiving,
    ):

        def report(done: CopiedBlocks, _: object = None) -> None:
            progress(done.blocks, done.new_bytes, b"")

        if dry_run:
            every = archive.copy_all(
                receiving, version, name=name, repair=True, dry_run=True, progress=report
            )
            for left in every.left:
                raise left.error
            [copied] = every.copied
        else:
            copied = archive.copy(version, receiving, name=name, progress=report)
    if as_json:
        facts = {
            **as_json_object(copied.version.stored, version.disk_facts()),
            "dry_run": dry_run,
            **_copied_json(copied),
        }
        print_json(facts)
    else:
        echo(_line_of_one(version, copied, printable(target), dry_run=dry_run))


def _line_of_one(version: ArchivedVersion, copied: Copied, target: str, *, dry_run: bool) -> str:
    if not copied.there:
        said = "would copy" if dry_run else "copied"
        sent = f"{_sent(copied.blocks)} new there"
        return f"{said} {version} to {target} as {copied.version}: {sent}"
    found = _found_there(copied, dry_run=dry_run)
    return f"{copied.version} is in {target} already{found or ', and whole'}"


def _found_there(copied: Copied, *, dry_run: bool) -> str:
    """What was done about a version that was there already; empty for nothing."""
    done = []
    if copied.noted:
        verb = "would be" if dry_run else "are"
        done.append(f"its comment and tags {verb} made as they are here")
    if copied.blocks.new_blocks and dry_run:
        done.append(f"it lacks {_sent(copied.blocks)}")
    elif copied.blocks.new_blocks:
        done.append(f"what it lacked is made good: {_sent(copied.blocks)}")
    return "".join(f"; {each}" for each in done)


def _sent(done: CopiedBlocks) -> str:
    return f"{count(done.new_blocks, 'block')}, {size(done.new_bytes)}"


class _Shown:
    """Prints each version when it is done, and at the end what was left out, and sums."""

    def __init__(self, target: Path, *, dry_run: bool, quiet: bool) -> None:
        self._target = printable(target)
        self._dry_run = dry_run
        self._quiet = quiet

    def __call__(self, done: Copied | NotCopied) -> None:
        """Print a version that was copied or repaired; those passed over are only counted."""
        if self._quiet or isinstance(done, NotCopied):
            return
        if not done.there:
            verb = "would copy" if self._dry_run else "copied"
            echo(f"{verb} {done.version}: {_sent(done.blocks)} new there")
        elif found := _found_there(done, dry_run=self._dry_run):
            echo(f"{done.version} is there already{found}")

    def end(self, done: CopiedAll) -> None:
        """Print what was left out, on standard error, and sums."""
        for left in done.left:
            echo(f"not copied: {_reason(left)}", err=True)
        there = sum(copied.there for copied in done.copied)
        noted = sum(copied.noted for copied in done.copied)
        sums = [
            f"{count(len(done.copied) - there, 'version')} copied to {self._target}",
            *([f"{there:,} there already"] if there else []),
            *([f"{noted:,} of these with new comments or tags"] if noted else []),
            *([f"{len(done.left):,} left out"] if done.left else []),
        ]
        line = f"{', '.join(sums)}: {_sent(done.blocks)} new there"
        echo(f"a dry run: {line} if this were done" if self._dry_run else line)


def _reason(left: NotCopied) -> str:
    text = str(left.error)
    return text if left.called in text else f"{left.called}: {text}"


def _print_json(done: CopiedAll, *, dry_run: bool) -> None:
    print_json(
        {
            "dry_run": dry_run,
            "versions": [_as_json(copied) for copied in done.copied],
            "left": _left_json(done.left),
            "copied_blocks": done.blocks.new_blocks,
            "copied_bytes": done.blocks.new_bytes,
        }
    )


def _as_json(copied: Copied) -> dict[str, object]:
    return {
        **as_json_object(copied.version.stored),
        **_copied_json(copied),
    }


def _copied_json(copied: Copied) -> dict[str, object]:
    return {
        "there_already": copied.there,
        "notes_replaced": copied.noted,
        "copied_blocks": copied.blocks.new_blocks,
        "copied_bytes": copied.blocks.new_bytes,
    }


def _left_json(left: Sequence[NotCopied]) -> list[dict[str, object]]:
    return [
        {
            "version": each.called,
            "reason": str(each.error),
            "damaged": isinstance(each.error, Corrupt | NotStored),
        }
        for each in left
    ]

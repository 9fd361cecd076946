"""`ventifs ls`, `ventifs cat` and `ventifs du`."""

import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from ventifs.cli.formatting import count, exact, size
from ventifs.cli.output import echo, print_json
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.listing import print0_option, print_array, print_lines, print_raw
from ventifs.errors import VentifsError
from ventifs.image.disk_facts import DISK, disk_of, facts_of
from ventifs.store import Store
from ventifs.text import printable
from ventifs.tree.objects.content import read
from ventifs.tree.objects.directory import NoSuchPath, entries, resolve, tree
from ventifs.tree.objects.records import Device, Directory, Entry, File, Symlink
from ventifs.tree.versions.catalog import find_version, split_path, time_text


def find_entry(store: Store, text: str) -> tuple[Entry, bytes]:
    """The entry that an argument names, and its path in the version, without `.` in it."""
    wanted, path = split_path(text)
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    return resolve_in(store, wanted, path), b"/".join(names)


def find_file(store: Store, text: str) -> tuple[Entry, bytes]:
    """As `find_entry`; a version of a disk without any path is the disk, not the directory."""
    entry, path = find_entry(store, text)
    if ":/" not in text:
        disk = disk_of(store, entry)
        if disk is not None:
            return disk, DISK
    return entry, path


def resolve_in(store: Store, wanted: str, path: bytes) -> Entry:
    """The entry at a path of a version.

    Raises:
        NoSuchPath: there is none; the message also names the version, as the user wrote it.
    """
    version = find_version(store, wanted)
    try:
        return resolve(store, version.root, path)
    except NoSuchPath as error:
        raise NoSuchPath(f"{wanted}:{error}") from None


@click.command(short_help="List a directory of a version.")
@click.argument("what", metavar="VERSION[:PATH]")
@store_option
@json_option
@print0_option
@click.option("-l", "long", is_flag=True, help="With mode, owner, size and time.")
@click.option("-R", "--recursive", is_flag=True, help="And everything below it.")
def ls(what: str, *, store: Path, as_json: bool, raw: bool, long: bool, recursive: bool) -> None:
    r"""List a directory of a version, or one file.

    VERSION is NAME, NAME@latest, NAME@~2, NAME@TIME or score:HEX; a partial TIME means the last
    version in it. The path starts after the first `:/`. What does not print is shown as `\n` or
    `\xff`, a backslash as two.
    """
    with Store.open(store) as opened:
        entry, path = find_entry(opened, what)
        found: Iterable[tuple[bytes, Entry]]
        if not isinstance(entry.detail, Directory):
            found = [(path, entry)]
        elif recursive:
            found = tree(opened, entry)
        else:
            found = ((child.name, child) for child in entries(opened, entry.detail.content))
        if as_json:
            print_array(entry_json(name, child) for name, child in found)
        elif raw:
            print_raw(name for name, _ in found)
        else:
            print_lines(_long_line(*each) if long else printable(each[0]) for each in found)


def _long_line(name: bytes, entry: Entry) -> str:
    detail = entry.detail
    if isinstance(detail, Device):
        amount = f"{detail.major},{detail.minor}"
    else:
        amount = str(detail.bytes if isinstance(detail, Directory) else entry.size)
    target = f" -> {printable(detail.target)}" if isinstance(detail, Symlink) else ""
    when = time_text(entry.mtime_ns)[:19].replace("T", " ")
    return (
        f"{stat.filemode(entry.mode)} {entry.uid:>5} {entry.gid:>5} {amount:>12} {when} "
        f"{printable(name)}{target}"
    )


def entry_json(name: bytes, entry: Entry) -> dict[str, Any]:
    """What `--json` prints of an entry."""
    facts: dict[str, Any] = {
        **exact(name),
        "mode": f"{entry.mode:o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": time_text(entry.mtime_ns),
    }
    match entry.detail:
        case File():
            facts["size"] = entry.size
        case Directory(_, paths, total):
            facts |= {"paths": paths, "bytes": total}
        case Symlink(target):
            facts |= exact(target, "target")
        case Device(major, minor):
            facts["device"] = [major, minor]
    return facts


@click.command(short_help="Print a file of a version.")
@click.argument("what", metavar="VERSION[:PATH]")
@store_option
def cat(what: str, *, store: Path) -> None:
    """Print a file of a version on standard output.

    Without a path, the disk that is archived as VERSION: raw, byte for byte.
    """
    with Store.open(store) as opened:
        entry, path = find_file(opened, what)
        if not isinstance(entry.detail, File):
            raise VentifsError(f"{printable(path) or what}: {_instead(entry)}")
        for piece in read(opened, entry.detail.content):
            left = piece if isinstance(piece, int) else 0
            while left > 0:
                sys.stdout.buffer.write(bytes(min(left, 1 << 20)))
                left -= 1 << 20
            if not isinstance(piece, int):
                sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _instead(entry: Entry) -> str:
    match entry.detail:
        case Directory():
            return "a directory; 'ventifs ls' lists it"
        case Symlink(target):
            return f"a symbolic link to {printable(target)}, which is not followed"
    return "not a regular file"


@click.command(short_help="Sum up a directory of a version.")
@click.argument("what", metavar="VERSION[:PATH]")
@store_option
@json_option
def du(what: str, *, store: Path, as_json: bool) -> None:
    """Sum up a directory of a version: paths, and bytes of regular files, as one look-up.

    Of a disk's version, its directory has the disk, its partitions and its files, each with all
    bytes; so the disk's size is told, too.
    """
    with Store.open(store) as opened:
        entry, _ = find_entry(opened, what)
        disk = facts_of(opened, entry)
    detail = entry.detail
    paths, total = (
        (detail.paths, detail.bytes) if isinstance(detail, Directory) else (0, entry.size)
    )
    if as_json:
        facts = {"paths": paths, "bytes": total}
        print_json(facts if disk is None else {**facts, "disk_bytes": disk.size}, indent=None)
    else:
        of = "" if disk is None else f"a disk of {size(disk.size)}: "
        echo(f"{of}{size(total)} in {count(paths, 'path')}")

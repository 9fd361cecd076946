"""`ventifs ls`, `ventifs cat` and `ventifs du`."""

import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

import ventifs
from ventifs import Archive, ArchivedPath
from ventifs.cli.formatting import count, exact, size
from ventifs.cli.output import echo, print_json
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.listing import print0_option, print_array, print_lines, print_raw
from ventifs.errors import VentifsError
from ventifs.image.disk_facts import facts_of
from ventifs.text import printable
from ventifs.tree.objects.records import Device, Directory, Entry, RegularFile, Symlink
from ventifs.tree.versions.times import time_text


def find_path(archive: Archive, text: str) -> ArchivedPath:
    """The path that a person means; it is there.

    Raises:
        NoSuchVersion, NoSuchPath: it is not.
    """
    found = archive.path(text)
    _ = found.entry
    return found


def find_file(archive: Archive, text: str) -> ArchivedPath:
    """As `find_path`; a version of a disk without any path is the disk, not the directory."""
    found = find_path(archive, text)
    return found if ":/" in text else found.version.disk() or found


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
    with ventifs.open(store) as archive:
        top = find_path(archive, what)
        found: Iterable[tuple[bytes, Entry]] = [(top.path, top.entry)]
        if top.is_dir():
            found = top.scan(recursive=recursive)
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
        case RegularFile():
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
    with ventifs.open(store) as archive:
        found = find_file(archive, what)
        if not found.is_file():
            raise VentifsError(f"{printable(found.path) or what}: {_instead(found.entry)}")
        found.write_to(sys.stdout.buffer)
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
    with ventifs.open(store) as archive:
        found = find_path(archive, what)
        entry = found.entry
        disk = facts_of(found.version.store, entry)
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

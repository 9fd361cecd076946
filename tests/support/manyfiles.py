"""Versions of very many files, made by hand, which is much faster than archiving them."""

import stat
from pathlib import Path

import msgspec

from tests.support.forging import commit_version, directory, file
from ventifs.store import Store, score_of
from ventifs.tree.objects.records import Block, Entry, Inline, Symlink


def content_of(version: int, name: bytes) -> bytes:
    return (b"version %d of " % version + name).ljust(100, b".")


def archive_many(store: Path, files: int, versions: int) -> None:
    """In a child: make versions `many` of a flat directory; every file differs in each version."""
    for version in range(versions):
        with Store.open(store, "write") as opened:
            children = []
            for number in range(files):
                name = b"%06d" % number
                score, _ = opened.put(content_of(version, name))
                children.append(file(name, Block(score, 100)))
            commit_version(opened, directory(opened, b"", children), "many", version * 10**9)


def wide_version(store: Path, directories: int, files: int, name: str) -> None:
    """Make directories of files whose contents are not stored; entries are of realistic length."""
    with Store.open(store, "write") as opened:
        children: list[Entry] = []
        for number in range(directories):
            below = [
                file(b"some-name-%05d" % each, Block(score_of(b"%d %d" % (number, each)), 9))
                for each in range(files)
            ]
            children.append(directory(opened, b"directory-%05d" % number, below))
        commit_version(opened, directory(opened, b"", children), name)


def version_of(store: Path, kind: str, directories: int, entries: int) -> None:
    """In a child: as `wide_version`, with files, directories or long symbolic links."""
    if kind == "files":
        wide_version(store, directories, entries, "n")
        return
    with Store.open(store, "write") as opened:

        def entry(number: int) -> Entry:
            name = b"some-name-%05d" % number
            if kind == "directories":
                return directory(opened, name, [])
            target = Symlink(b"%05d" % number + 4000 * b"x")
            return msgspec.structs.replace(
                file(name, Inline(b"x")), mode=stat.S_IFLNK | 0o777, detail=target
            )

        children = []
        for number in range(directories):
            below = [entry(number * entries + each) for each in range(entries)]
            below = [
                msgspec.structs.replace(each, name=b"some-name-%05d" % place)
                for place, each in enumerate(below)
            ]
            children.append(directory(opened, b"directory-%05d" % number, below))
        commit_version(opened, directory(opened, b"", children), "n")


def deep_version(store: Path, chains: int, depth: int) -> None:
    """In a child: make chains of directories `d`, below `chain-00000` and on, each with a file `f`.

    All chains are the same nodes in the store, but different directories to a server.
    """
    with Store.open(store, "write") as opened:
        chain = directory(opened, b"d", [file(b"f", Inline(b"x"))])
        for _ in range(depth - 1):
            chain = directory(opened, b"d", [chain, file(b"f", Inline(b"x"))])
        children = [
            msgspec.structs.replace(chain, name=b"chain-%05d" % number) for number in range(chains)
        ]
        commit_version(opened, directory(opened, b"", children), "n")

"""Versions of very many files, made by hand: in seconds where archiving them takes minutes."""

from pathlib import Path

from tests.support.forging import commit_version, directory, file
from ventifs.store import Store, score_of
from ventifs.tree.records import Block, Entry


def content_of(version: int, name: bytes) -> bytes:
    return (b"version %d of " % version + name).ljust(100, b".")


def archive_many(store: Path, files: int, versions: int) -> None:
    """In a child: versions named `many`, of one flat directory, every file of each another."""
    for version in range(versions):
        with Store.open(store, "write") as opened:
            children = []
            for number in range(files):
                name = b"%06d" % number
                score, _ = opened.put(content_of(version, name))
                children.append(file(name, Block(score, 100)))
            commit_version(opened, directory(opened, b"", children), "many", version * 10**9)


def wide_version(store: Path, directories: int, files: int, name: str) -> None:
    """Directories of files whose contents are nowhere; entries as long as real ones."""
    with Store.open(store, "write") as opened:
        children: list[Entry] = []
        for number in range(directories):
            below = [file(b"some-name-%05d" % each, Block(score_of(b"%d %d" % (number, each)), 9))
                     for each in range(files)]  # fmt: skip
            children.append(directory(opened, b"directory-%05d" % number, below))
        commit_version(opened, directory(opened, b"", children), name)

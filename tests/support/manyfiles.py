"""Versions of very many files, made by hand: in seconds where archiving them takes minutes."""

from pathlib import Path

from tests.support.forging import commit_version, directory, file
from ventifs.store import Store
from ventifs.tree.records import Block, Content, Entry, Inline


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
    """Directories of small files, each entry about as long as a real one."""
    with Store.open(store, "write") as opened:
        children: list[Entry] = []
        content: Content = Inline(b"x" * 32)
        for number in range(directories):
            below = [file(b"some-name-%05d" % each, content) for each in range(files)]
            children.append(directory(opened, b"directory-%05d" % number, below))
        commit_version(opened, directory(opened, b"", children), name)

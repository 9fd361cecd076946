"""Watches what the archiver reads of a source, and changes the source while it reads."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ventifs.tree.archive.file_reader import FileReader
from ventifs.tree.objects.records import Content

Hook = Callable[[bytes], object]


@contextmanager
def before_reading(hook: Hook) -> Iterator[None]:
    """Call `hook(name)` before anything but a directory is read, when its status is known."""
    regular, other = FileReader.regular, FileReader.other

    def hooked_regular(
        self: FileReader, name: bytes, directory: int, known: Content | None
    ) -> object:
        hook(name)
        return regular(self, name, directory, known)

    def hooked_other(self: FileReader, name: bytes, directory: int) -> object:
        hook(name)
        return other(self, name, directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileReader, "regular", hooked_regular)
        patch.setattr(FileReader, "other", hooked_other)
        yield


@contextmanager
def once_before_reading(hook: Callable[[], object]) -> Iterator[None]:
    """Call `hook` when all names of a small tree have been scanned, and nothing is read yet."""
    called: list[bytes] = []

    def once(name: bytes) -> None:
        if not called:
            called.append(name)
            hook()

    with before_reading(once):
        yield
    assert called, "nothing was read"


@contextmanager
def names_read() -> Iterator[list[bytes]]:
    """Collect the last component of every path that is read, without directories."""
    names: list[bytes] = []
    with before_reading(names.append):
        yield names


class _Listing:
    """A stand-in for the result of `os.scandir`, with given items."""

    def __init__(self, items: "list[os.DirEntry[str]]") -> None:
        self._items = iter(items)

    def __enter__(self) -> "_Listing":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> "Iterator[os.DirEntry[str]]":
        return self._items

    def __next__(self) -> "os.DirEntry[str]":
        return next(self._items)

    def close(self) -> None:
        pass


@contextmanager
def listings(change: "Callable[[list[os.DirEntry[str]]], object]") -> Iterator[None]:
    """Pass the entries of every directory to `change`, before their status is read."""
    real = os.scandir

    def listed(where: int) -> _Listing:
        with real(where) as found:
            items = list(found)
        change(items)
        return _Listing(items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", listed)
        yield

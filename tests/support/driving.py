"""Drives a `Filesystem` as sessions and the loader do: runs its loads, and retries."""

from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from ventifs.buffer import joined
from ventifs.vfs.interface import Cold, File, Filesystem, Load, Opened, User

P = ParamSpec("P")
T = TypeVar("T")
ROUNDS_MAX = 50  # no operation needs more loads


class Driver:
    """Runs operations to their end.

    Attributes:
        loads: the loads that were run, in order.
    """

    def __init__(self) -> None:
        self.loads: list[Load] = []

    def __call__(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation until it returns or raises something other than `Cold`."""
        for _ in range(ROUNDS_MAX):
            try:
                return operation(*args, **kwargs)
            except Cold as cold:
                self.loads.append(cold.load)
                cold.load.run()
        raise AssertionError(f"still cold: {[load.key for load in self.loads[-3:]]}")

    def attach(self, files: Filesystem, aname: bytes, user: User | None = None) -> File:
        return self(files.attach, user or User(), aname)

    def walk(self, file: File, path: bytes) -> File:
        for name in path.split(b"/"):
            file = self(file.walk, name)
        return file

    def read(self, opened: Opened, offset: int, count: int) -> bytes:
        return joined(self(opened.read, offset, count))

    def content(self, file: File, step: int = 1 << 20) -> bytes:
        """A file's bytes, read from front to back."""
        opened = self(file.open, 0)
        whole = b""
        while piece := self.read(opened, len(whole), step):
            whole += piece
        opened.close()
        return whole

    def entries(self, file: File, start: int = 0) -> Iterator[tuple[bytes, File]]:
        """A directory's entries but for dots, from an ordinal on, as a listing shows them.

        Continues a listing that was interrupted by `Cold`.
        """
        opened, cookie, passed = self(file.open, 0), 0, 0
        for _ in range(100_000):
            try:
                for after, name, identity, kind in opened.entries(cookie):
                    if name not in {b".", b".."}:
                        passed += 1
                        if passed > start:
                            child = self(opened.listed, name)
                            assert (child.identity, child.kind) == (identity, kind)
                            yield name, child
                    cookie = after
            except Cold as cold:
                self.loads.append(cold.load)
                cold.load.run()
            else:
                return
        raise AssertionError("a listing never ends")

    def names(self, file: File) -> list[bytes]:
        return [name for name, _ in self.entries(file)]

"""What a file system must have, so that its files can be guarded: `Placed` and `Attachable`."""

from collections.abc import Callable, Sequence
from typing import Protocol

from ventifs.vfs.interface import File, Filesystem, User


class Placed(File, Protocol):
    """A file that can be guarded."""

    def home(self) -> File | None:
        """The root of the tree that it is in, whose users apply; None above all trees.

        The same object for all files of a tree, as long as any is in use.
        """

    def way(self) -> Sequence[File]:
        """For the root of an attach: the directories that lead from `home` to it."""


PassThrough = Callable[[Placed], None]


class Attachable(Filesystem, Protocol):
    """A file system that can be guarded: its files are `Placed`."""

    def attach(self, user: User, aname: bytes, pass_through: PassThrough | None = None) -> File:
        """See `Filesystem`.

        Args:
            user: who attaches.
            aname: what to.
            pass_through: called with each directory on the path, before anything is looked up in
                it; what it raises ends the attach, with nothing looked up there.
        """

    def session(self) -> "Attachable":
        """See `Filesystem`."""

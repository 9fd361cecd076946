"""What a restore has done: its counts, and lists of what is not as it was archived.

The lists are bounded, whatever an archive holds: memory must not grow with what goes wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ventifs.tree.restore.file_maker import Consequence, RestoreTrouble

TROUBLES_MAX = 10_000  # listed of each kind; further ones are only counted


@dataclass(slots=True)
class Restored:
    """What a restore has done so far.

    Attributes:
        entries: names that are now there as archived.
        size: bytes of regular files among them, each file once.
        kept: files that were there already, the same in everything.
        left: (path, what was left out) for what the user may not restore.
        failed: (path, reason) for what is damaged, or could not be made.
        replaced: (path, what was there) for symbolic links that were replaced by directories.
        unlisted: how many more of all three kinds there are.
    """

    entries: int = 0
    size: int = 0
    kept: int = 0
    left: list[tuple[bytes, str]] = field(default_factory=list)
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    replaced: list[tuple[bytes, str]] = field(default_factory=list)
    unlisted: int = 0

    def add_replaced(self, path: bytes, what: str) -> None:
        """List a symbolic link that was replaced by a directory."""
        self._list(self.replaced, path, what)

    def add_trouble(self, path: bytes, trouble: RestoreTrouble, more: str = "") -> None:
        """List what went wrong with an entry; `more` is added to the reason."""
        listed = self.failed if trouble.kind == Consequence.FAILED else self.left
        self._list(listed, path, trouble.reason + more)

    def _list(self, listed: list[tuple[bytes, str]], path: bytes, text: str) -> None:
        if len(listed) < TROUBLES_MAX:
            listed.append((path, text))
        else:
            self.unlisted += 1


RestoreProgress = Callable[[Restored, bytes], None]  # what is done, the current path

"""What a restore would make, told from directory nodes alone."""

from collections.abc import Callable

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.choosing import Selection, walk
from ventifs.tree.records import Directory, Entry

Told = Callable[[bytes, Entry], None]


class Plan:
    """What is chosen below an entry, counted; see `choosing.Visitor`.

    Attributes:
        entries: names that would be made.
        size: bytes of regular files among them, each file once.
        failed: (path, reason) of directories that are damaged.
    """

    def __init__(self, store: Store, root: Entry, selection: Selection, told: Told) -> None:
        """Walk it; `told` hears of each path."""
        self.entries = self.size = 0
        self.failed: list[tuple[bytes, str]] = []
        self._told = told
        self._names: list[bytes] = []
        self._links: set[bytes] = set()
        if isinstance(root.detail, Directory):
            walk(store, root, selection, self)
        else:
            self.leaf(root, b"")

    def enter(self, entry: Entry) -> bool:
        """Count a directory."""
        self._names.append(entry.name if self._names else b"")
        self.entries += 1
        self._told(self._path(), entry)
        return True

    def leaf(self, entry: Entry, data: bytes) -> None:
        """Count anything else."""
        self.entries += 1
        if entry.link not in self._links:
            self.size += entry.size
        if entry.link:
            self._links.add(entry.link)
        self._told(self._path(entry.name), entry)

    def damaged(self, error: VentifsError) -> None:
        """Tell of a damaged directory."""
        self.failed.append((self._path(), str(error)))

    def leave(self) -> None:
        """Go up."""
        self._names.pop()

    def _path(self, name: bytes = b"") -> bytes:
        return b"/".join(part for part in (*self._names, name) if part)

"""Where a store's arenas are, and a bounded set of them open for reading.

`arenas/open/ID.arena` may grow and may hold blocks the index lacks; `arenas/sealed/ID.arena` is
immutable and was wholly indexed before it was moved there. `arenas/condemned/ID.arena` was dropped
before it was moved there, and is read no more. Ids are 16 random bytes, 32 hexadecimal
digits in file names.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock

from ventifs.errors import Corrupt
from ventifs.store.arena import Arena
from ventifs.store.arena_state import SealedMark
from ventifs.store.clump import ARENA_ID_SIZE
from ventifs.store.files import readable_errors

SUFFIX = ".arena"
_NAME_SIZE = 2 * ARENA_ID_SIZE + len(SUFFIX)
_OPEN_MAX = 128  # descriptors


class Arenas:
    """The arena files of one store, by id.

    Concurrency: every method may be called from any thread.
    """

    def __init__(self, root: Path, store_id: bytes) -> None:
        """Open nothing yet."""
        self.open_directory = root / "arenas" / "open"
        self.sealed_directory = root / "arenas" / "sealed"
        self.condemned_directory = root / "arenas" / "condemned"
        self.store_id = store_id
        self._readers: OrderedDict[bytes, Arena] = OrderedDict()
        self._lock = Lock()

    def open_path(self, arena_id: bytes) -> Path:
        """The path of an arena until it is sealed and indexed."""
        return self.open_directory / (arena_id.hex() + SUFFIX)

    def sealed_path(self, arena_id: bytes) -> Path:
        """The path of an arena after it is sealed and indexed."""
        return self.sealed_directory / (arena_id.hex() + SUFFIX)

    def condemned_path(self, arena_id: bytes) -> Path:
        """The path of an arena after it is dropped, until it is removed."""
        return self.condemned_directory / (arena_id.hex() + SUFFIX)

    def open_ids(self) -> list[bytes]:
        """Ids of the arenas in `open/`, sorted."""
        with readable_errors(self.open_directory):
            return _ids(self.open_directory)

    def sealed_ids(self) -> list[bytes]:
        """Ids of the arenas in `sealed/`, sorted."""
        with readable_errors(self.sealed_directory):
            return _ids(self.sealed_directory)

    def condemned_ids(self) -> list[bytes]:
        """Ids of the arenas in `condemned/`, sorted; none without that directory."""
        with readable_errors(self.condemned_directory), suppress(FileNotFoundError):
            return _ids(self.condemned_directory)
        return []

    def sealed_mark(self, unmoved: Iterable[bytes]) -> SealedMark:
        """The mark of the arenas in `sealed/` and some more; cheap, for there may be 40,000."""
        with readable_errors(self.sealed_directory):
            names = os.listdir(self.sealed_directory)
        found = [name for name in names if len(name) == _NAME_SIZE and name.endswith(SUFFIX)]
        try:
            ids = bytes.fromhex("".join(found).replace(SUFFIX, ""))
        except ValueError:  # names of something else
            ids = b"".join(self.sealed_ids())
        return SealedMark.of_joined(b"".join([ids, *unmoved]))

    def all_ids(self) -> list[bytes]:
        """Ids of all arenas, sorted. `open/` is read first: only a repair moves one back."""
        return sorted({*self.open_ids(), *self.sealed_ids()})

    def present(self, arena_id: bytes) -> bool:
        """Whether the arena's file exists; checks `open/` first, as arenas move one way."""
        return self.open_path(arena_id).exists() or self.sealed_path(arena_id).exists()

    def reader(self, arena_id: bytes) -> Arena:
        """The arena open for reading.

        Raises:
            Corrupt: when its file is missing.
            VentifsError: when it cannot be opened.
        """
        with self._lock:
            arena = self._readers.get(arena_id)
            if arena is not None:
                self._readers.move_to_end(arena_id)
                return arena
        arena = self._open(arena_id)
        with self._lock:
            self._readers[arena_id] = arena
            if len(self._readers) > _OPEN_MAX:
                self._readers.popitem(last=False)
        return arena

    def _open(self, arena_id: bytes) -> Arena:
        # An arena can move from open/ to sealed/ between the first and the second attempt.
        for path in (
            self.sealed_path(arena_id),
            self.open_path(arena_id),
            self.sealed_path(arena_id),
        ):
            try:
                return Arena.open(path)
            except FileNotFoundError:
                continue
        raise Corrupt("arena file is missing", arena=arena_id.hex())

    def forget_reader(self, arena_id: bytes) -> None:
        """Open an arena anew when it is next read."""
        with self._lock:
            self._readers.pop(arena_id, None)

    def close(self) -> None:
        """Drop all readers; one in use closes its descriptor when its last user is done."""
        with self._lock:
            self._readers.clear()


def _ids(directory: Path) -> list[bytes]:
    found = []
    for name in os.listdir(directory):
        if name.endswith(SUFFIX) and len(name) == _NAME_SIZE:
            try:
                found.append(bytes.fromhex(name[:32]))
            except ValueError:
                continue
    return sorted(found)

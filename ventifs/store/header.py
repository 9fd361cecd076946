"""The store header: the small file that makes a directory a store.

It has 256 bytes. `Store.create` writes it last. `upgrade` may replace it whole, under the store's
exclusive lock; nothing else writes it. So a process that takes the lock reads it again. It holds
the version and features that a program must know, and the parameters that decide scores and chunks.
FORMAT.md gives the layout.
"""

import os
import struct
import time
from pathlib import Path

import msgspec
from blake3 import blake3

from ventifs.errors import Corrupt, VentifsError
from ventifs.store.files import Files, explained
from ventifs.text import command_word

HEADER_NAME = "ventifs.store"
HEADER_SIZE = 256
FORMAT_VERSION = 1
HASH_BLAKE3_256 = 1
MAGIC = b"ventifs store\r\n\x00"
_FIELDS = struct.Struct("<16sIH2xQQQ16sQQIII4x32sQ")
_CHECK_SIZE = 32

RECLAIMED = 1 << 0  # read-only compatible: space may be reclaimed, and arenas be dropped

# The names of feature bits, from bit 0 on; a newer version may define more.
COMPATIBLE_NAMES = ("parity",)
READ_ONLY_COMPATIBLE_NAMES = ("reclaimed",)
INCOMPATIBLE_NAMES = ("encrypted", "remote")

KNOWN_INCOMPATIBLE = 0
KNOWN_READ_ONLY_COMPATIBLE = RECLAIMED

ARENA_SIZE_DEFAULT = 256 << 20
ARENA_SIZE_MIN = 4 << 20
ARENA_SIZE_MAX = 3 << 30  # offsets in the index are 32 bits


class NotAStore(VentifsError):
    """There is no ventifs store at a path."""


class Unsupported(VentifsError):
    """The store is of a format or feature this program does not know."""


class StoreHeader(msgspec.Struct, frozen=True):
    """What a store is.

    Attributes:
        store_id: 16 random bytes.
        created_ns: UTC nanoseconds since 1970.
        arena_size: bytes at which an arena is sealed.
        chunk_min, chunk_average, chunk_max: the chunker's parameters, in bytes.
        chunk_seed: 32 bytes for the chunker's gear table; all zeros is FORMAT.md's own table.
        compatible, read_only_compatible, incompatible: feature bits, as in ext4: an unknown bit is
            ignored, forbids writing, or forbids opening, respectively.
        reserve: bytes that the store's reserve should have; 0 for none.
    """

    store_id: bytes
    created_ns: int
    arena_size: int = ARENA_SIZE_DEFAULT
    chunk_min: int = 4096
    chunk_average: int = 16384
    chunk_max: int = 65536
    chunk_seed: bytes = bytes(32)
    compatible: int = 0
    read_only_compatible: int = 0
    incompatible: int = 0
    reserve: int = 0

    @classmethod
    def new(cls, arena_size: int, reserve: int = 0) -> "StoreHeader":
        """A header for a store that is being created."""
        return cls(
            os.urandom(16),
            time.time_ns(),
            arena_size,
            read_only_compatible=RECLAIMED,
            reserve=reserve,
        )

    @property
    def features(self) -> list[str]:
        """The names of all features, numbers for those without a name."""
        return [
            *names_of_bits(self.compatible, COMPATIBLE_NAMES),
            *names_of_bits(self.read_only_compatible, READ_ONLY_COMPATIBLE_NAMES),
            *names_of_bits(self.incompatible, INCOMPATIBLE_NAMES),
        ]

    @property
    def reclaimed(self) -> bool:
        """Whether every program that writes to the store knows gates and drops."""
        return bool(self.read_only_compatible & RECLAIMED)

    @property
    def writable(self) -> bool:
        """Whether this program knows every feature that it must know to write."""
        return not self.read_only_compatible & ~KNOWN_READ_ONLY_COMPATIBLE


def names_of_bits(bits: int, names: tuple[str, ...]) -> list[str]:
    """The names of the bits that are set; one hexadecimal number stands for those without."""
    named = [name for at, name in enumerate(names) if bits >> at & 1]
    nameless = bits >> len(names) << len(names)
    return [*named, f"{nameless:#x}"] if nameless else named


def _claim(bits: int, names: tuple[str, ...]) -> str:
    """What feature bits say of a store: `is encrypted and remote`, `has the features 0x30`."""
    found = names_of_bits(bits, names)
    named = [name for name in found if name in names]
    claims = [f"is {' and '.join(named)}"] if named else []
    claims += [f"has the features {number}" for number in found if number not in names]
    return " and ".join(claims)


def encode_header(header: StoreHeader, *, version: int = FORMAT_VERSION) -> bytes:
    """The header file's 256 bytes."""
    fields = _FIELDS.pack(
        MAGIC,
        version,
        HASH_BLAKE3_256,
        header.compatible,
        header.read_only_compatible,
        header.incompatible,
        header.store_id,
        header.created_ns,
        header.arena_size,
        header.chunk_min,
        header.chunk_average,
        header.chunk_max,
        header.chunk_seed,
        header.reserve,
    )
    body = fields.ljust(HEADER_SIZE - _CHECK_SIZE, b"\0")
    return body + blake3(body).digest(_CHECK_SIZE)


def decode_header(data: bytes) -> StoreHeader:
    """The header in a header file's bytes.

    Raises:
        Corrupt: when they are damaged, or never were a header.
        Unsupported: when they have a newer version, or name an unknown incompatible feature.
    """
    body, check = data[:-_CHECK_SIZE], data[-_CHECK_SIZE:]
    if len(data) != HEADER_SIZE or blake3(body).digest(_CHECK_SIZE) != check:
        raise Corrupt(
            "store header is damaged; put back a copy of this store's, however old, then run "
            "'ventifs upgrade'"
        )
    (
        magic,
        version,
        hash_id,
        compatible,
        read_only,
        incompatible,
        store_id,
        created_ns,
        arena_size,
        chunk_min,
        chunk_average,
        chunk_max,
        seed,
        reserve,
    ) = _FIELDS.unpack_from(body)
    unknown = incompatible & ~KNOWN_INCOMPATIBLE
    if version > FORMAT_VERSION or hash_id != HASH_BLAKE3_256 or magic != MAGIC:
        raise Unsupported(
            f"store format {version} with hash {hash_id} is newer than this ventifs, which knows "
            f"format {FORMAT_VERSION}: upgrade ventifs"
        )
    if unknown:
        raise Unsupported(
            f"the store {_claim(unknown, INCOMPATIBLE_NAMES)}, which this ventifs does not know: "
            "upgrade ventifs"
        )
    header = StoreHeader(
        store_id,
        created_ns,
        arena_size,
        chunk_min,
        chunk_average,
        chunk_max,
        seed,
        compatible,
        read_only,
        incompatible,
        reserve,
    )
    if not 0 < arena_size <= ARENA_SIZE_MAX:  # offsets in the index would overflow
        raise Corrupt(f"store header says arenas of {arena_size} bytes, which cannot be")
    return header


def read_header(root: Path) -> StoreHeader:
    """The header of the store at `root`.

    Raises:
        NotAStore: when there is no header.
        Corrupt, Unsupported: as `decode_header`; each names the path and the remedy.
        VentifsError: when it cannot be read.
    """
    path = root / HEADER_NAME
    try:
        with path.open("rb") as file:
            return decode_header(file.read(HEADER_SIZE + 1))
    except (FileNotFoundError, NotADirectoryError):
        if root.exists():
            what = "not a ventifs store; name one, or have 'ventifs init' make one elsewhere"
        else:
            what = f"there is no such store; 'ventifs init --store {command_word(root)}' makes one"
        raise NotAStore(f"{root}: {what}") from None
    except OSError as error:
        raise explained(error, path) from None
    except Corrupt as error:
        raise Corrupt(f"{path}: {error}") from None
    except Unsupported as error:
        raise Unsupported(f"{root}: {error}") from None


def require_writable(root: Path, header: StoreHeader) -> None:
    """Refuse to change a store that has features this program can only read.

    Raises:
        Unsupported: for such a store.
    """
    unknown = header.read_only_compatible & ~KNOWN_READ_ONLY_COMPATIBLE
    if unknown:
        raise Unsupported(
            f"{root}: the store {_claim(unknown, READ_ONLY_COMPATIBLE_NAMES)}, which this ventifs "
            "can only read: upgrade ventifs to write"
        )


def require_reclaimed(root: Path, header: StoreHeader) -> None:
    """Refuse to drop arenas of a store that programs may write to which do not know of drops.

    Raises:
        Unsupported: for such a store.
    """
    if not header.reclaimed:
        raise Unsupported(
            f"{root}: older programs may write to this store, which know nothing of reclaiming; "
            "run 'ventifs upgrade' first"
        )


def header_under_lock(root: Path, before: StoreHeader) -> StoreHeader:
    """The header of a store that is about to be written, read again after its lock was taken.

    An upgrade may have replaced it since it was read first. While the lock is held, none can.

    Raises:
        Unsupported: the store has features by now that this program can only read, or not even.
        VentifsError: another store has taken its place, or as `read_header`.
    """
    header = read_header(root)
    require_writable(root, header)
    if header.store_id != before.store_id:
        raise VentifsError(
            f"{root}: another store has taken this one's place meanwhile; run the command again"
        )
    return header


def write_header(root: Path, header: StoreHeader, files: Files) -> None:
    """Write or replace the header durably: after a crash it is the old one or the new one.

    A directory is a store from the first time on. To replace it, the caller holds the store's lock
    exclusively.
    """
    files.write_whole(root / HEADER_NAME, [encode_header(header)])

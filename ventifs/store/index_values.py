"""Values of the index: each ends in the CRC-32 of its key and itself, so that damage is a miss.

`Meta` reads and writes the table of single values. FORMAT.md, section Index, lists them.
"""

import struct
from pathlib import Path
from typing import Any
from zlib import crc32

from ventifs.store.clump import ARENA_ID_SIZE
from ventifs.store.lmdb_environment import IndexDamaged

CRC_RESIDUE = 0x2144DF1C  # crc32 of any bytes followed by their own crc32, little-endian
_CRC = struct.Struct("<I")


def guarded(key: bytes, value: bytes) -> bytes:
    """A value as it is stored."""
    return value + _CRC.pack(crc32(value, crc32(key)))


def unguarded(key: bytes, value: bytes | None) -> bytes | None:
    """A stored value without its check, or None when it is absent or damaged."""
    if value is None or crc32(value, crc32(key)) != CRC_RESIDUE:
        return None
    return value[:-4]


def _named(key: bytes) -> str:
    """A key of `Meta` for messages: a word, with an arena's id behind it in some."""
    if len(key) <= ARENA_ID_SIZE:
        return key.decode()
    return f"{key[:-ARENA_ID_SIZE].decode()} of arena {key[-ARENA_ID_SIZE:].hex()}"


class Meta:
    """The table of single values."""

    def __init__(self, path: Path, table: Any) -> None:
        """`table` is LMDB's handle; `path` is named in errors."""
        self._path = path
        self._table = table

    def find(self, key: bytes, transaction: Any) -> bytes | None:
        """A value that older indexes lack, or None.

        Raises:
            IndexDamaged: it is damaged.
        """
        stored = transaction.get(key, db=self._table)
        value = unguarded(key, stored)
        if value is None and stored is not None:
            raise IndexDamaged(self._path, f"has a damaged {_named(key)}")
        return value

    def get(self, key: bytes, transaction: Any) -> bytes:
        """A value that every index has.

        Raises:
            IndexDamaged: it is missing or damaged.
        """
        value = self.find(key, transaction)
        if value is None:
            raise IndexDamaged(self._path, f"lacks its {_named(key)}")
        return value

    def put(self, key: bytes, value: bytes, transaction: Any) -> None:
        """Store a value."""
        transaction.put(key, guarded(key, value), db=self._table)

    def below(self, prefix: bytes, transaction: Any) -> dict[bytes, bytes]:
        """Values by the rest of their keys, of all keys that begin with `prefix`.

        Raises:
            IndexDamaged: one of them is damaged.
        """
        found: dict[bytes, bytes] = {}
        cursor = transaction.cursor(self._table)
        if not cursor.set_range(prefix):
            return found
        for key, stored in cursor:
            if not key.startswith(prefix):
                break
            value = unguarded(key, stored)
            if value is None:
                raise IndexDamaged(self._path, f"has a damaged {_named(key)}")
            found[key[len(prefix) :]] = value
        return found

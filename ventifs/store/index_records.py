"""The index's tables of records: the catalog, and the ids of what was deleted.

A listing of the catalog is compared with the number of records and a digest over all of them, so
that a damaged page cannot hide one.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ventifs.store.index_values import Meta
from ventifs.store.journal import DIGEST_SIZE, RECORD_ID_SIZE, Changes, Record
from ventifs.store.lmdb_environment import IndexDamaged

_CATALOG = struct.Struct("<Q16s")  # number of records, exclusive or of their digests
_KEY = b"catalog"  # in `meta`


class RecordTables:
    """The rows of records. Every method takes the transaction it works in."""

    def __init__(self, path: Path, tables: Mapping[bytes, Any], meta: Meta) -> None:
        """`tables` are LMDB's handles by name."""
        self._path = path
        self._catalog, self._deleted = tables[b"catalog"], tables[b"deleted"]
        self._meta = meta

    def initialise(self, transaction: Any) -> None:
        """Begin with no records."""
        self._meta.put(_KEY, _CATALOG.pack(0, bytes(DIGEST_SIZE)), transaction)

    def mark(self, transaction: Any) -> bytes:
        """A value that is equal for equal sets of records and different for different ones."""
        return self._meta.get(_KEY, transaction)

    def apply(self, changes: Changes, transaction: Any) -> None:
        """Put and delete records.

        One that is present already, or was ever deleted, is not put again; puts and deletes may
        arrive in any order.
        """
        if not changes.puts and not changes.deletes:
            return
        count, stored = _CATALOG.unpack(self.mark(transaction))
        digest = int.from_bytes(stored, "big")
        doomed = set(changes.deletes)
        for record_id in doomed:
            transaction.put(record_id, b"", db=self._deleted)
        present = list(transaction.cursor(self._catalog)) if doomed else []
        for key, value in present:
            if key[-RECORD_ID_SIZE:] in doomed:
                record = self._record(key, value)
                transaction.delete(key, db=self._catalog)
                count, digest = count - 1, digest ^ _digest(record)
        for record in changes.puts:
            fresh = transaction.get(record.id, db=self._deleted) is None
            value = record.value + record.digest()
            if fresh and transaction.put(
                record.key + record.id, value, overwrite=False, db=self._catalog
            ):
                count, digest = count + 1, digest ^ _digest(record)
        mark = _CATALOG.pack(count, digest.to_bytes(DIGEST_SIZE, "big"))
        self._meta.put(_KEY, mark, transaction)

    def expunge(self, record_ids: Sequence[bytes], transaction: Any) -> None:
        """Forget that records were deleted: nothing that is left can put them again."""
        for record_id in record_ids:
            transaction.delete(record_id, db=self._deleted)

    def _record(self, key: bytes, value: bytes) -> Record:
        record = Record(key[:-RECORD_ID_SIZE], key[-RECORD_ID_SIZE:], value[:-DIGEST_SIZE])
        if record.digest() != value[-DIGEST_SIZE:]:
            raise IndexDamaged(self._path, "has a damaged catalog record")
        return record

    def has(self, key: bytes, record_id: bytes, transaction: Any) -> bool:
        """Whether a record is there, as one look-up."""
        return transaction.get(key + record_id, db=self._catalog) is not None

    def records(self, transaction: Any) -> list[Record]:
        """All records, in order of key.

        Raises:
            IndexDamaged: when they are not exactly those that were put and not deleted.
        """
        digest, records = 0, []
        for key, value in transaction.cursor(self._catalog):
            records.append(self._record(key, value))
            digest ^= int.from_bytes(value[-DIGEST_SIZE:], "big")  # which is the record's
        listed = len(records), digest.to_bytes(DIGEST_SIZE, "big")
        if listed != _CATALOG.unpack(self.mark(transaction)):
            raise IndexDamaged(self._path, "has lost catalog records")
        return sorted(records)

    def deleted(self, transaction: Any) -> set[bytes]:
        """The ids of all records that were deleted."""
        return {bytes(key) for key, _ in transaction.cursor(self._deleted)}


def _digest(record: Record) -> int:
    return int.from_bytes(record.digest(), "big")

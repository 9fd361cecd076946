"""Write the store's golden vectors: `python tools/vectors_store.py` makes tests/vectors/store/.

Everything here is laid out by hand, with struct and BLAKE3 alone, from the layouts that
ventifs/store/FORMAT.md gives; nothing is imported from ventifs, so that an encoder cannot vouch for
itself. The output is deterministic: the tests make it again and compare. Vectors may be added; an
existing one changes only together with the format's version number.
"""

import json
import struct
from pathlib import Path
from typing import Any

from blake3 import blake3

Json = dict[str, Any]

TARGET = Path(__file__).parent.parent / "tests" / "vectors" / "store"

STORE_ID = bytes(range(0x10, 0x20))
SEALED_ID = bytes(range(0xA0, 0xB0))
OPEN_ID = bytes(range(0xB0, 0xC0))
RECORD_IDS = [bytes([number]) * 16 for number in (1, 2, 3)]
CREATED_NS = 1_700_000_000_123_456_789
DATA, NODE, CATALOG, COMMIT, GAP = 1, 2, 3, 4, 5
RAW, ZSTD = 0, 1
PUT, DELETE, DROP = 1, 2, 3

# A zstd frame written from RFC 8878, section 3.1.1: magic, single segment with a one-byte content
# size of 100, one last block of type RLE and size 100, the byte `v`.
FRAME_OF_100 = (
    struct.pack("<IBB", 0xFD2FB528, 0x20, 100)
    + (100 << 3 | 1 << 1 | 1).to_bytes(3, "little")
    + b"v"
)
CONTENT_OF_100 = b"v" * 100


def check(data: bytes) -> bytes:
    """The 16-byte checksum of everything but the store header."""
    return blake3(data).digest()[:16]


def store_header(reserve: int = 0, **bits: int) -> bytes:
    """256 bytes: fields at fixed offsets, zeros between and after, BLAKE3 of the first 224."""
    data = bytearray(256)
    data[0:16] = b"ventifs store\r\n\0"
    struct.pack_into("<IH", data, 16, 1, 1)  # format version, hash: BLAKE3-256
    names = ("compatible", "read_only_compatible", "incompatible")
    struct.pack_into("<QQQ", data, 24, *(bits.get(name, 0) for name in names))
    data[48:64] = STORE_ID
    struct.pack_into("<QQ", data, 64, CREATED_NS, 4 << 20)
    struct.pack_into("<III", data, 80, 4096, 16384, 65536)
    data[96:128] = bytes(32)  # the chunker's seed
    struct.pack_into("<Q", data, 128, reserve)
    data[224:] = blake3(bytes(data[:224])).digest()
    return bytes(data)


def arena_header(arena: bytes) -> bytes:
    """64 bytes: magic, store id, arena id, creation time, checksum."""
    fixed = b"vfarena\x01" + STORE_ID + arena + struct.pack("<Q", CREATED_NS)
    return fixed + check(fixed)


def clump(
    arena: bytes, offset: int, kind: int, codec: int, blocks: list[bytes], raw: int, payload: bytes
) -> bytes:
    """Head, checksum over place and all the rest, list of (score, length), payload."""
    fixed = b"vfC\x01" + struct.pack("<BBHII", kind, codec, len(blocks), raw, len(payload))
    listing = b"".join(blake3(block).digest() + struct.pack("<I", len(block)) for block in blocks)
    place = arena + struct.pack("<Q", offset)
    return fixed + check(place + fixed + listing + payload) + listing + payload


def plain(arena: bytes, offset: int, kind: int, blocks: list[bytes]) -> bytes:
    """A clump of blocks that are not compressed."""
    payload = b"".join(blocks)
    return clump(arena, offset, kind, RAW, blocks, len(payload), payload)


def journal(arena: bytes, offset: int, kind: int, payload: bytes) -> bytes:
    """A catalog or commit clump that is not compressed."""
    return clump(arena, offset, kind, RAW, [], len(payload), payload)


def gap(arena: bytes, offset: int, length: int) -> bytes:
    """The head of a gap; its checksum does not cover the bytes that the gap skips."""
    fixed = b"vfC\x01" + struct.pack("<BBHII", GAP, RAW, 0, 0, length - 32)
    return fixed + check(arena + struct.pack("<Q", offset) + fixed)


def put(number: int, key: bytes, value: bytes) -> bytes:
    """A catalog record that is put: operation, lengths, id, key, value."""
    return struct.pack("<BHI", PUT, len(key), len(value)) + RECORD_IDS[number] + key + value


def delete(number: int) -> bytes:
    """A catalog record that is deleted."""
    return struct.pack("<BHI", DELETE, 0, 0) + RECORD_IDS[number]


def drop(arena: bytes, counters: list[int]) -> bytes:
    """An arena that is dropped, with the sums of its commits' five counters."""
    return struct.pack("<BHI", DROP, 0, 40) + arena + struct.pack("<5Q", *counters)


def commit(
    catalog_length: int, records: int, counters: list[int], relies_on: list[tuple[bytes, int]]
) -> bytes:
    """A commit's payload: time, catalog length, records, arenas; five counters; the arenas."""
    fixed = struct.pack("<QIIH", CREATED_NS, catalog_length, records, len(relies_on))
    arenas = b"".join(arena + struct.pack("<Q", length) for arena, length in relies_on)
    return fixed + struct.pack("<5Q", *counters) + arenas


def directory(arena: bytes, clumps: list[tuple[int, bytes]]) -> bytes:
    """Magic, the arena's header, then offset and head (list, but not payload) of each clump."""
    entries = b"".join(struct.pack("<Q", at) + head for at, head in clumps)
    return b"vfdirec\x01" + arena_header(arena) + entries


def trailer(arena: bytes, start: int, listed: bytes, clumps: int, blocks: int) -> bytes:
    """80 bytes; `listed` is the directory that begins at `start`, its hash the fingerprint."""
    fixed = b"vfseal\0\x01" + struct.pack("<QQII", start, len(listed), clumps, blocks)
    fixed += blake3(listed).digest()
    return fixed + check(arena + fixed)


# --- vectors of single structures -------------------------------------------------------------


def structures() -> Json:
    """Name -> source, fields and bytes."""
    arena, offset = SEALED_ID.hex(), 4096
    blocks = [b"hello", b"world!"]
    gap_head = gap(SEALED_ID, offset, 1000)
    place = {"arena": arena, "offset": offset}
    relies_on = [(SEALED_ID, 5000), (OPEN_ID, 64)]
    changes = put(0, b"name/web01", b"a value") + put(1, b"k", b"") + delete(2)
    heads = [(64, plain(SEALED_ID, 64, DATA, blocks)[: 32 + 2 * 36]), (4096, gap_head)]
    listed = directory(SEALED_ID, heads)
    return {
        "store_header": {
            "source": "layout of FORMAT.md, section Header, by struct; the defaults",
            "store_id": STORE_ID.hex(),
            "created_ns": CREATED_NS,
            "arena_size": 4 << 20,
            "hex": store_header().hex(),
        },
        "store_header_reclaimed": {
            "source": "as store_header, with what `init` and `upgrade` add: the feature reclaimed",
            "read_only_compatible": 1,
            "reserve": 64 << 20,
            "hex": store_header(64 << 20, read_only_compatible=1).hex(),
        },
        "store_header_features": {
            "source": "as store_header, with feature bits this version must ignore or only read",
            "compatible": 1 << 63,
            "read_only_compatible": 5,
            "hex": store_header(compatible=1 << 63, read_only_compatible=5).hex(),
        },
        "store_header_incompatible": {
            "source": "as store_header, with a feature bit that forbids opening",
            "hex": store_header(incompatible=2).hex(),
        },
        "arena_header": {
            "source": "layout of FORMAT.md, section Arena, by struct",
            "store_id": STORE_ID.hex(),
            "arena": arena,
            "created_ns": CREATED_NS,
            "hex": arena_header(SEALED_ID).hex(),
        },
        "clump_raw": {
            "source": "two data blocks as they are: compressed they would be longer",
            **place,
            "kind": DATA,
            "codec": RAW,
            "raw": b"".join(blocks).hex(),
            "blocks": [block.hex() for block in blocks],
            "payload": b"".join(blocks).hex(),
            "hex": plain(SEALED_ID, offset, DATA, blocks).hex(),
        },
        "clump_zstd": {
            "source": "one node of 100 bytes in a zstd frame written by hand from RFC 8878",
            **place,
            "kind": NODE,
            "codec": ZSTD,
            "raw": CONTENT_OF_100.hex(),
            "blocks": [CONTENT_OF_100.hex()],
            "payload": FRAME_OF_100.hex(),
            "hex": clump(SEALED_ID, offset, NODE, ZSTD, [CONTENT_OF_100], 100, FRAME_OF_100).hex(),
        },
        "gap": {
            "source": "the 32 bytes that turn 1000 unreadable bytes into a clump to step over",
            **place,
            "length": 1000,
            "hex": gap_head.hex(),
        },
        "catalog": {
            "source": "two records put and one deleted, in one payload",
            "puts": [
                [b"name/web01".hex(), RECORD_IDS[0].hex(), b"a value".hex()],
                [b"k".hex(), RECORD_IDS[1].hex(), ""],
            ],
            "digests": [
                check(put(0, b"name/web01", b"a value")).hex(),
                check(put(1, b"k", b"")).hex(),
            ],
            "deletes": [RECORD_IDS[2].hex()],
            "hex": changes.hex(),
        },
        "catalog_drop": {
            "source": "a record put, one deleted, and an arena dropped, in one payload",
            "puts": [[b"name/web01".hex(), RECORD_IDS[0].hex(), b"a value".hex()]],
            "deletes": [RECORD_IDS[2].hex()],
            "drops": [[SEALED_ID.hex(), [10, 2**40, 30, 4, 500]]],
            "hex": (
                put(0, b"name/web01", b"a value")
                + delete(2)
                + drop(SEALED_ID, [10, 2**40, 30, 4, 500])
            ).hex(),
        },
        "commit": {
            "source": "a commit of 3 records that relies on two arenas",
            "time_ns": CREATED_NS,
            "catalog_length": 160,
            "records": 3,
            "counters": [10, 2**40, 30, 4, 500],
            "relies_on": [[relied.hex(), length] for relied, length in relies_on],
            "hex": commit(160, 3, [10, 2**40, 30, 4, 500], relies_on).hex(),
        },
        "directory": {
            "source": "a directory of two clumps, of which one is a gap",
            "header": arena_header(SEALED_ID).hex(),
            "clumps": [[at, head.hex()] for at, head in heads],
            "hex": listed.hex(),
        },
        "trailer": {
            "source": "the trailer of an arena that is only header and the directory above",
            "arena": arena,
            "directory_offset": 64,
            "directory_length": len(listed),
            "clumps": 2,
            "blocks": 2,
            "fingerprint": blake3(listed).hexdigest(),
            "hex": trailer(SEALED_ID, 64, listed, 2, 2).hex(),
        },
    }


# --- a whole store ----------------------------------------------------------------------------


class ArenaFile:
    """An arena's growing bytes, and the clumps that its directory will list."""

    def __init__(self, arena: bytes) -> None:
        """Begin with the header alone."""
        self.id = arena
        self.bytes = arena_header(arena)
        self.heads: list[tuple[int, bytes]] = []
        self.blocks = 0

    def add(self, whole: bytes) -> None:
        """Append a clump that was made for this offset."""
        count = struct.unpack_from("<H", whole, 6)[0]
        self.heads.append((len(self.bytes), whole[: 32 + 36 * count]))
        self.blocks += count
        self.bytes += whole

    def commit(self, changes: bytes, records: int, counters: list[int], *arenas: bytes) -> None:
        """Append a catalog clump and the commit that makes it count."""
        start = len(self.bytes)
        self.add(journal(self.id, start, CATALOG, changes))
        relies_on = [
            (arenas[at], int.from_bytes(arenas[at + 1], "little"))
            for at in range(0, len(arenas), 2)
        ]
        relies_on.append((self.id, len(self.bytes)))
        payload = commit(len(self.bytes) - start, records, counters, relies_on)
        self.add(journal(self.id, len(self.bytes), COMMIT, payload))

    def sealed(self) -> bytes:
        """The whole file, with directory and trailer."""
        listed = directory(self.id, self.heads)
        last = trailer(self.id, len(self.bytes), listed, len(self.heads), self.blocks)
        return self.bytes + listed + last


def sealed_arena() -> ArenaFile:
    """An arena with raw and compressed data, a node, a gap, and two records of one commit."""
    arena = ArenaFile(SEALED_ID)
    arena.add(plain(arena.id, len(arena.bytes), DATA, [b"hello", b"world!"]))
    arena.add(clump(arena.id, len(arena.bytes), DATA, ZSTD, [CONTENT_OF_100], 100, FRAME_OF_100))
    arena.add(plain(arena.id, len(arena.bytes), NODE, [b"a node"]))
    arena.add(gap(arena.id, len(arena.bytes), 52) + b"vfC\x01torn by a crash.")
    changes = put(0, b"name/web01", b"first") + put(1, b"name/web02", b"to be deleted")
    arena.commit(changes, 2, [5, 133, 8, 1, 8])
    return arena


def store() -> Json:
    """A store of one sealed and one open arena, and what a reader must find in it."""
    sealed, growing = sealed_arena(), ArenaFile(OPEN_ID)
    growing.add(plain(growing.id, len(growing.bytes), DATA, [b"later"]))
    relied = len(sealed.bytes).to_bytes(8, "little")
    growing.commit(
        delete(1) + put(2, b"name/web01", b"second"), 2, [1, 5, 0, 0, 0], SEALED_ID, relied
    )
    data, nodes = [b"hello", b"world!", CONTENT_OF_100, b"later"], [b"a node"]
    return {
        "source": "tools/vectors_store.py, by hand from FORMAT.md; the index is made on opening",
        "files": {
            "ventifs.store": store_header().hex(),
            f"arenas/sealed/{SEALED_ID.hex()}.arena": sealed.sealed().hex(),
            f"arenas/open/{OPEN_ID.hex()}.arena": growing.bytes.hex(),
        },
        "blocks": {blake3(block).hexdigest(): block.hex() for block in data + nodes},
        "records": [
            [b"name/web01".hex(), RECORD_IDS[0].hex(), b"first".hex()],
            [b"name/web01".hex(), RECORD_IDS[2].hex(), b"second".hex()],
        ],
        "stats": {
            "blocks": 5,
            "node_blocks": 1,
            "put_blocks": 6,
            "put_bytes": 138,
            "zero_bytes": 8,
            "known_blocks": 1,
            "known_bytes": 8,
            "raw_bytes": 122,
            "node_bytes": 6,
            "stored_bytes": len(sealed.bytes) + len(growing.bytes) - 2 * 64,
            "gap_bytes": 52,
            "arenas_open": 1,
            "arenas_sealed": 1,
            "records": 2,
        },
    }


def slot(at: int, root: bytes, *, held: bool = True) -> bytes:
    """A slot of a lease file, at an offset."""
    capacity = -(-len(root) // 64) * 64
    length = len(root).to_bytes(4, "little")
    checked = check(at.to_bytes(8, "little") + length + root)
    return (
        capacity.to_bytes(4, "little")
        + bytes([held])
        + length
        + checked
        + root
        + bytes(capacity - len(root))
    )


def leases() -> Json:
    """A lease file: three roots, of which the second was given back, and half of a fourth."""
    roots = [b"first", b"second", bytes(range(65)), b"fourth"]
    file = b"vflease\1"
    for root in roots[:3]:
        file += slot(len(file), root, held=root != b"second")
    return {
        "source": "tools/vectors_store.py, by hand from FORMAT.md, section Leases",
        "roots": [root.hex() for root in roots],
        "leased": [root.hex() for root in (roots[0], roots[2])],
        "hex": file.hex(),
        "half_written_hex": slot(len(file), roots[3])[:27].hex(),
    }


def announcement() -> Json:
    """An announcement of three arenas, and one of none."""
    ids = [bytes(range(16)), b"\x80" * 16, b"\xff" * 16]
    bodies = [
        b"vfcond\0\1" + len(each).to_bytes(4, "little") + b"".join(each) for each in (ids, [])
    ]
    return {
        "source": "tools/vectors_store.py, by hand from FORMAT.md, section Reclaiming",
        "arenas": [arena.hex() for arena in ids],
        "hex": (bodies[0] + check(bodies[0])).hex(),
        "none_hex": (bodies[1] + check(bodies[1])).hex(),
    }


def outputs() -> dict[str, str]:
    """File name -> text of every file that this tool writes."""
    made = {
        "structures.json": structures(),
        "store-v1.json": store(),
        "leases.json": leases(),
        "condemned.json": announcement(),
    }
    return {name: json.dumps(value, indent=1) + "\n" for name, value in made.items()}


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, text in outputs().items():
        (TARGET / name).write_text(text)


if __name__ == "__main__":
    main()

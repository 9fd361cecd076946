"""Write golden vectors: `python tools/vectors_tree.py` makes trees.json and catalog.json.

Everything here is laid out by hand from ventifs/tree/FORMAT.md, with a MessagePack encoder of its
own and BLAKE3; nothing is imported from ventifs, so that an encoder cannot vouch for itself. The
output is deterministic: a test makes it again and compares. Vectors may be added; an existing one
changes only together with the format's version number.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

TARGET = Path(__file__).parent.parent / "tests" / "vectors" / "tree" / "trees.json"
CATALOG_TARGET = TARGET.with_name("catalog.json")

Blocks = dict[str, str]  # score: bytes, both hexadecimal
DIRECTORY, REGULAR, LINK = 0o40755, 0o100644, 0o120777
MTIME_NS = 1_700_000_000_123_456_789
EMPTY = [0]
LATE_NS = 10_413_792_000 * 10**9  # the year 2300, past 2^63
LATEST_NS = 15_000_000_000 * 10**9 + 1  # the year 2445, nearly the last that ext4 holds
EARLY_NS = -(2_000_000_000 * 10**9) + 500_000_000  # the year 1906
TROUBLES = 203  # three more than a record lists
FORGOTTEN_NS = 1_800_000_000_000_000_001


def pack(value: Any) -> bytes:
    """Encode as MessagePack, every integer and length in its shortest form."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return _pack_int(value)
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case bytes():
            return _head(len(value), ((0xC4, "B"), (0xC5, "H"), (0xC6, "I"))) + value
        case str():
            data = value.encode()
            if len(data) < 32:
                return bytes([0xA0 | len(data)]) + data
            return _head(len(data), ((0xD9, "B"), (0xDA, "H"), (0xDB, "I"))) + data
        case list():
            items = b"".join(map(pack, value))
            if len(value) < 16:
                return bytes([0x90 | len(value)]) + items
            return _head(len(value), ((0xDC, "H"), (0xDD, "I"))) + items
    raise TypeError(type(value))


def _head(number: int, forms: tuple[tuple[int, str], ...]) -> bytes:
    for code, form in forms:
        if number < 1 << (8 * struct.calcsize(form)):
            return bytes([code]) + struct.pack(">" + form, number)
    raise ValueError(number)


def _pack_int(value: int) -> bytes:
    if -32 <= value < 128:
        return struct.pack(">b", value)
    if value > 0:
        return _head(value, ((0xCC, "B"), (0xCD, "H"), (0xCE, "I"), (0xCF, "Q")))
    for code, form in ((0xD0, "b"), (0xD1, "h"), (0xD2, "i"), (0xD3, "q")):
        if -(1 << (8 * struct.calcsize(form) - 1)) <= value:
            return bytes([code]) + struct.pack(">" + form, value)
    raise ValueError(value)


def block(blocks: Blocks, data: bytes) -> bytes:
    """Store a block; return its score."""
    data = data.rstrip(b"\0")
    score = blake3(data).digest()
    blocks[score.hex()] = data.hex()
    return score


def search_tree(blocks: Blocks, items: list[tuple[bytes, int, int, bytes]]) -> bytes:
    """Store a tree of (encoded item, items below, bytes below, last key); the root's score."""
    level = 0
    while True:
        groups: list[list[tuple[bytes, int, int, bytes]]] = [[]]
        size = 16
        for item in items:
            if groups[-1] and size + len(item[0]) > 64 << 10:
                groups.append([])
                size = 16
            groups[-1].append(item)
            size += len(item[0])
            drawn = int.from_bytes(blake3(bytes([level]) + item[0]).digest()[:4], "little")
            if len(groups[-1]) >= 4 and drawn % 128 == 0:
                groups.append([])
                size = 16
        above = []
        for group in filter(None, groups):
            head = pack([0] * len(group))
            count = head[: len(head) - len(group)]  # the head of an array of this length
            node = b"\x92" + pack(level) + count + b"".join(item[0] for item in group) + b"\xc1"
            score = block(blocks, node)
            below, total, key = (sum(i[1] for i in group), sum(i[2] for i in group), group[-1][3])
            above.append((pack([score, below, total, key]), below, total, key))
        if len(above) == 1:
            return score
        items, level = above, level + 1


def entry(
    name: bytes,
    mode: int,
    detail: list[Any],
    attributes: Any = EMPTY,
    *,
    mtime_ns: int = MTIME_NS,
) -> bytes:
    """An entry of user 1000 and group 100."""
    return pack([name, mode, 1000, 100, mtime_ns, detail, attributes, b""])


def directory(blocks: Blocks, names: list[tuple[bytes, bytes]]) -> list[Any]:
    """The content of a directory of (name, entry) pairs."""
    return [
        3,
        search_tree(blocks, [(data, 1, 0, name) for name, data in sorted(names)]),
        len(names),
    ]


def flat() -> dict[str, Any]:
    """A directory of a thousand small files: three levels of nodes."""
    blocks: Blocks = {}
    names = []
    for number in range(1000):
        name, data = b"file%04d" % number, b"%d" % number
        names.append((name, entry(name, REGULAR, [0, [1, data]])))
    content = directory(blocks, names)
    size = sum(len(b"%d" % number) for number in range(1000))
    return _root(blocks, [1, content, 1000, size])


def mixed() -> dict[str, Any]:
    """A directory in another, a link, a file with a hole, one of one block, long attributes."""
    blocks: Blocks = {}
    data = b"after the hole, " * 8
    hole, chunk = pack([0, 32 << 10]), pack([1, block(blocks, data), len(data)])
    sparse = search_tree(blocks, [(hole, 1, 32 << 10, b""), (chunk, 1, len(data), b"")])
    long = pack([[b"user.long", bytes(range(256)) * 3]])
    attributes = [2, block(blocks, long), len(long)]
    inner = [
        (b"\xff\n", entry(b"\xff\n", REGULAR, [0, [2, block(blocks, b"b" * 1000), 1000]])),
        (
            b"sparse",
            entry(b"sparse", REGULAR, [0, [3, sparse, (32 << 10) + len(data)]], attributes),
        ),
    ]
    below = directory(blocks, inner)
    size = 1000 + (32 << 10) + len(data)
    outer = [
        (b"d", entry(b"d", DIRECTORY, [1, below, 2, size], [4, [[b"user.a", b"1"]]])),
        (b"l", entry(b"l", LINK, [2, b"d/sparse"])),
    ]
    return _root(blocks, [1, directory(blocks, outer), 4, size])


def times() -> dict[str, Any]:
    """Times past 2^63 and before 1970, of a file, a directory and a link."""
    blocks: Blocks = {}
    late = [(b"z", entry(b"z", REGULAR, [0, [1, b"late\n"]], mtime_ns=LATE_NS))]
    below = directory(blocks, late)
    names = [
        (b"a", entry(b"a", REGULAR, [0, [1, b"latest\n"]], mtime_ns=LATEST_NS)),
        (b"d", entry(b"d", DIRECTORY, [1, below, 1, 5], mtime_ns=LATE_NS)),
        (b"l", entry(b"l", LINK, [2, b"d/z"], mtime_ns=EARLY_NS)),
    ]
    return _root(blocks, [1, directory(blocks, names), 4, 12])


def troubles() -> dict[str, Any]:
    """An empty directory whose version has more troubles than its record lists."""
    blocks: Blocks = {}
    found = [
        [b"etc/%03d\xff" % number, "permission denied", number % 2 == 0]
        for number in range(TROUBLES)
    ]
    data = b"".join(struct.pack("<I", len(each)) + each for each in map(pack, found[200:]))
    beyond = [2, block(blocks, data), len(data)]
    return _root(blocks, [1, EMPTY, 0, 0], [found[:200], TROUBLES - 200, beyond])


ONE_TROUBLE = [[[b"etc/shadow", "permission denied", True]], 2]


def _root(blocks: Blocks, detail: list[Any], troubled: list[Any] = ONE_TROUBLE) -> dict[str, Any]:
    """A vector: a root with this detail, and a version record that ends in `troubled`."""
    root = entry(b"", DIRECTORY, detail)
    version = pack([root, "/srv/guest", "a comment", ["x", "y"], 12345, 1.5, *troubled])
    return {
        "root": root.hex(),
        "score": blake3(root + b"\xc1").hexdigest(),
        "key": (b"version\0guest\0" + struct.pack(">Q", MTIME_NS)).hex(),
        "version": version.hex(),
        "blocks": blocks,
    }


VECTORS: dict[str, Callable[[], dict[str, Any]]] = {
    "flat": flat,
    "mixed": mixed,
    "times": times,
    "troubles": troubles,
}


# A name and a time, and when the hold ends.
HOLDS = [("guest", MTIME_NS, None), ("a.B_c-1", 0, FORGOTTEN_NS), ("z", 2**64 - 1, 0)]


def catalog() -> dict[str, list[dict[str, str]]]:
    """Records that hold versions, and one that keeps a forgotten version."""
    holds = [
        {
            "key": (b"hold\0" + name.encode() + b"\0" + struct.pack(">Q", time_ns)).hex(),
            "value": pack([until_ns]).hex(),
        }
        for name, time_ns, until_ns in HOLDS
    ]
    key = b"forgotten\0guest\0" + struct.pack(">QQ", MTIME_NS, FORGOTTEN_NS)
    return {
        "holds": holds,
        "forgotten": [{"key": key.hex(), "value": troubles()["version"]}],
    }


def text() -> str:
    """The text of trees.json."""
    return json.dumps({name: make() for name, make in VECTORS.items()}, indent=1) + "\n"


def catalog_text() -> str:
    """The text of catalog.json."""
    return json.dumps(catalog(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
    CATALOG_TARGET.write_text(catalog_text())

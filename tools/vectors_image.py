"""Write the images' golden vector: `python -m tools.vectors_image` makes images.json.

It holds a small disk laid out by hand, what a survey reports of it, and the version's root as
ventifs/image/FORMAT.md specifies it; nothing is imported from ventifs. As in vectors_tree, an
existing vector changes only together with the format.
"""

import json
import struct
from pathlib import Path
from typing import Any

from blake3 import blake3

from tools.vectors_tree import (
    DIRECTORY,
    FORGOTTEN_NS,
    Blocks,
    block,
    directory,
    entry,
    pack,
    search_tree,
)

TARGET = Path(__file__).parent.parent / "tests" / "vectors" / "image" / "images.json"

SIZE = 53_348
# The bytes at each offset; everything else is zeros.
PIECES: dict[int, bytes] = {
    0: b"boot" * 128,
    8_704: b"inodes" * 500,
    12_800: b"a file with two names " * 137,  # 3014 bytes, of which the file has 3000
    16_896: b"c" * 3072 + b"stale" * 204,
    20_992: b"C" * 1024,
    25_088: b"after the hole, " * 8 + b"stale",
    29_184: b"a tiny file, inline.",
    37_376: b"end",
    41_472: b"second" * 100,
    45_568: b"first" * 600,
    53_340: b"the tail",
}
VOLUME = (4_608, 41_472)  # no multiple of 4096
LOGICAL = ((45_568, 49_664), (41_472, 43_520))
# For each name: the inode's number, size, and extents (offset in the file, place, length).
FILES: dict[bytes, tuple[int, int, list[list[int]]]] = {
    b"b": (11, 3000, [[0, 12_800, 4096]]),
    b"c": (12, 4096, [[0, 20_992, 1024], [1024, 16_896, 3072]]),
    b"e": (13, 2000, [[0, 12_800, 2048]]),  # shares the extent of `b`
    b"l": (11, 3000, [[0, 12_800, 4096]]),
    b"s": (14, (32 << 10) + 128, [[32 << 10, 25_088, 4096]]),
    b"t": (15, 20, [[0, 29_184, 4096]]),
}
FACTS = (
    '{"size":53348,"volumes":[{"name":"1","start":4608,"size":36864,"type":"83",'
    '"filesystem":"ext4","uuid":"a1","label":"root","notes":["a note"]},'
    '{"name":"vg0-data","start":45568,"size":6144,"logical":true,'
    '"notes":["nothing known"]}],"notes":["of the disk"]}'
)
IMAGE, VIEW = 0o100640, 0o40750  # the image's own file had 0640

Item = tuple[bytes, int, int, bytes]


def disk() -> bytes:
    """All bytes of the disk."""
    data = bytearray(SIZE)
    for start, piece in PIECES.items():
        data[start : start + len(piece)] = piece
    return bytes(data)


def hole(length: int) -> Item:
    """An item for a hole."""
    return pack([0, length]), 1, length, b""


def chunk(score: bytes, length: int) -> Item:
    """An item for a whole block."""
    return pack([1, score, length]), 1, length, b""


def part(content: list[Any], offset: int, length: int) -> Item:
    """An item for a slice."""
    return pack([2, content, offset, length]), 1, length, b""


def content(blocks: Blocks, items: list[Item]) -> list[Any]:
    """A content of these items."""
    return [3, search_tree(blocks, items), sum(item[2] for item in items)]


def version() -> dict[str, Any]:
    """The root of the version, and all its blocks."""
    blocks: Blocks = {}
    raw = disk()

    def stored(start: int, length: int) -> Item:
        return chunk(block(blocks, raw[start : start + length]), length)

    # The files' contents, each as if archived alone.
    long, short = (block(blocks, raw[12_800 : 12_800 + size]) for size in (3000, 2000))
    two_names, shared = [2, long, 3000], [2, short, 2000]
    crossed = [2, block(blocks, raw[20_992:22_016] + raw[16_896:19_968]), 4096]
    after = stored(25_088, 128)
    sparse = content(blocks, [hole(32 << 10), after])
    tiny = [1, raw[29_184:29_204]]

    # Of two files at one place, the one with the smaller encoded content comes first.
    if pack(shared) < pack(two_names):
        overlapping = [chunk(short, 2000), part(two_names, 2000, 1000)]
    else:
        overlapping = [chunk(long, 3000)]
    volume = [
        hole(4096),
        stored(8_704, 4096),
        *overlapping,
        stored(15_800, 1096),  # bytes after the file's end, to where the block ends
        part(crossed, 1024, 3072),
        stored(19_968, 1024),
        part(crossed, 0, 1024),
        hole(3072),
        part(sparse, 32 << 10, 128),
        stored(25_216, 3968),
        part(tiny, 0, 20),
        hole(8172),
        stored(37_376, 4096),
    ]
    second, first = stored(41_472, 2048), stored(45_568, 4096)
    whole = [
        stored(0, 4096),
        hole(512 + 4096),  # over the border of the volume
        *volume[1:],
        second,
        hole(2048),
        first,
        stored(49_664, 3684),
    ]

    link = blake3(b"b").digest()[:16]
    contents = {
        b"b": two_names,
        b"l": two_names,
        b"c": crossed,
        b"e": shared,
        b"s": sparse,
        b"t": tiny,
    }
    names = []
    for name, each in sorted(contents.items()):
        data = entry(name, 0o100644, [0, each])
        names.append((name, data[:-2] + pack(link) if name in (b"b", b"l") else data))
    size = sum(size for _, size, _ in FILES.values())

    def view(name: bytes, below: dict[bytes, bytes], paths: int, total: int) -> bytes:
        inside = directory(blocks, list(below.items()))
        return entry(name, VIEW, [1, inside, paths, total])

    tree = entry(b"1", DIRECTORY, [1, directory(blocks, names), len(names), size])
    partition = entry(b"1.img", IMAGE, [0, content(blocks, volume)])
    logical = entry(b"vg0-data.img", IMAGE, [0, content(blocks, [first, second])])
    below = {
        b"disk.img": entry(b"disk.img", IMAGE, [0, content(blocks, whole)]),
        b"files": view(b"files", {b"1": tree}, 1 + len(names), size),
        b"partitions": view(b"partitions", {b"1.img": partition}, 1, 36_864),
        b"volumes": view(b"volumes", {b"vg0-data.img": logical}, 1, 6_144),
    }
    totals = 4 + (1 + len(names)) + 1 + 1, SIZE + size + 36_864 + 6_144
    facts = [4, [[b"user.ventifs.image", FACTS.encode()]]]
    root = entry(b"", VIEW, [1, directory(blocks, list(below.items())), *totals], facts)
    return {"root": root.hex(), "score": blake3(root + b"\xc1").hexdigest(), "blocks": blocks}


def kept() -> list[dict[str, str]]:
    """Records of the settings that names keep: one without paths to follow, and one with them."""
    records = {
        "vm-1": [1, "raw", "file", b".img", [], []],
        "a": [1, "qcow2", "device", b"", [b"/srv/images", b"/\xff"], [b"/dev/vg/base"]],
    }
    return [
        {"key": (b"disk\0" + name.encode() + b"\0").hex(), "value": pack(record).hex()}
        for name, record in records.items()
    ]


def forgotten_kept() -> list[dict[str, str]]:
    """The first of these settings, forgotten with the last version of its name."""
    key = b"forgotten-disk\0vm-1\0" + struct.pack(">Q", FORGOTTEN_NS)
    return [{"key": key.hex(), "value": kept()[0]["value"]}]


def text() -> str:
    """The file's text."""
    made = {"small": version(), "kept": kept(), "forgotten_kept": forgotten_kept()}
    return json.dumps(made, indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())

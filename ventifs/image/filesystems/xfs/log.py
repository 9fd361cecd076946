"""Checks whether an XFS log is clean: whether its last record is that of an unmount.

The log is a ring of 512-byte blocks. Each begins with the cycle number, which counts the log's
rounds, or with a record's header. A binary search finds the head, where the cycle number drops.
"""

from ventifs.image.filesystems.xfs.layout import XfsLayout

_BLOCK = 512
_MAGIC = b"\xfe\xed\xba\xbe"
_BACK_MAX = 2048  # blocks to search back for the last record; it is at most a log stripe long
_HEADER_COVERS = 32 << 10  # bytes of a record that one header block covers
_UNMOUNT = 0x20


def is_clean(layout: XfsLayout) -> bool:
    """Whether nothing is to be replayed; False for a log on another device, which is not read.

    Raises:
        ImageError: the log cannot be read.
    """
    if not layout.log_start or not layout.log_blocks:
        return False
    start = layout.log_start * layout.block_size
    blocks = layout.log_blocks * layout.block_size // _BLOCK
    head = _head(layout, start, blocks)
    back = min(head or blocks, _BACK_MAX)
    first = (head or blocks) - back
    data = layout.window.read(start + first * _BLOCK, back * _BLOCK)
    for block in range(back - 1, -1, -1):
        if data[block * _BLOCK : block * _BLOCK + 4] == _MAGIC:
            return _is_unmount(data[block * _BLOCK :])
    return False


def _head(layout: XfsLayout, start: int, blocks: int) -> int:
    """The block after the newest one; 0 if the whole ring has one cycle number."""

    def turn(block: int) -> bytes:
        data = layout.window.read(start + block * _BLOCK, 8)
        return data[4:] if data[:4] == _MAGIC else data[:4]

    newest = turn(0)
    if turn(blocks - 1) == newest:
        return 0
    low, high = 0, blocks - 1  # has the newest cycle number; has not
    while high - low > 1:
        middle = (low + high) // 2
        if turn(middle) == newest:
            low = middle
        else:
            high = middle
    return high


def _is_unmount(data: bytes) -> bool:
    """Whether a record of an unmount begins here, and ends where the data ends."""

    def number(at: int) -> int:
        return int.from_bytes(data[at : at + 4], "big")

    version, length, operations, size = number(8), number(12), number(40), number(320)
    headers = -(-size // _HEADER_COVERS) if version & 2 and size > _HEADER_COVERS else 1
    at = headers * _BLOCK
    if len(data) != at + -(-length // _BLOCK) * _BLOCK or operations != 1:
        return False
    return bool(data[at + 9] & _UNMOUNT) if length >= 12 else False

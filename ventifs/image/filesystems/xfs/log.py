"""Whether an XFS log is clean: whether its last record says that it was unmounted.

The log is a ring of 512-byte blocks, each beginning with the number of its turn, or with a record's
header. The head, where the turn's number drops, is found by halving.
"""

from ventifs.image.filesystems.xfs.layout import Layout

_BLOCK = 512
_MAGIC = b"\xfe\xed\xba\xbe"
_BACK_MAX = 2048  # blocks to look back for the last record; it is as long as a log stripe at most
_HEADER_COVERS = 32 << 10  # bytes of a record that one header block is for
_UNMOUNT = 0x20


def is_clean(layout: Layout) -> bool:
    """Whether nothing is to be replayed; a log on another device never is, for all we know.

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


def _head(layout: Layout, start: int, blocks: int) -> int:
    """The block after the newest; 0 if the whole ring is of one turn."""

    def turn(block: int) -> bytes:
        data = layout.window.read(start + block * _BLOCK, 8)
        return data[4:] if data[:4] == _MAGIC else data[:4]

    newest = turn(0)
    if turn(blocks - 1) == newest:
        return 0
    low, high = 0, blocks - 1  # of the newest turn; not of it
    while high - low > 1:
        middle = (low + high) // 2
        if turn(middle) == newest:
            low = middle
        else:
            high = middle
    return high


def _is_unmount(data: bytes) -> bool:
    """Whether the record that begins here ends where the data does, and is that of an unmount."""

    def number(at: int) -> int:
        return int.from_bytes(data[at : at + 4], "big")

    version, length, operations, size = number(8), number(12), number(40), number(320)
    headers = -(-size // _HEADER_COVERS) if version & 2 and size > _HEADER_COVERS else 1
    at = headers * _BLOCK
    if len(data) != at + -(-length // _BLOCK) * _BLOCK or operations != 1:
        return False
    return bool(data[at + 9] & _UNMOUNT) if length >= 12 else False

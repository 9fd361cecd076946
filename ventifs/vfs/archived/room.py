"""What archived files report of the room that they take on a disk: `Attributes.blocks`.

A version keeps no count of the blocks that a file had. What its tree says of a content without
being read is its length, and whether all of it is one hole. So the figure of a file that has holes
beside data is an upper bound: that of the same file without holes. It is never less than what the
data takes, so that a program that compares it with the size takes no data for a hole.
"""

from functools import lru_cache

from ventifs.store import score_of
from ventifs.tree.objects.prolly import node_block
from ventifs.tree.objects.records import Content, Hole, Tree, encode_item, length_of

DIRECTORY_SIZE = 4096  # bytes that every directory reports
DIRECTORY_BLOCKS = DIRECTORY_SIZE // 512
_PAGE = 4096  # bytes that file systems allocate at a time


def blocks_of(content: Content) -> int:
    """Units of 512 bytes that a regular file with this content takes, or a bound; see above."""
    length = length_of(content)
    if isinstance(content, Tree) and content.score == _hole(length):
        return 0
    return -(-length // _PAGE) * (_PAGE // 512)


@lru_cache(maxsize=256)
def _hole(length: int) -> bytes:
    """The score of the tree of a content that is one hole."""
    return score_of(node_block(0, [encode_item(Hole(length))]))

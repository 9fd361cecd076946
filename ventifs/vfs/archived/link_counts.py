"""How many names an archived file has in its version: counted once a tree, when first asked for.

Entries hold a link id but no count, since one more name would change every entry of the file. So a
thread reads all directories of the version. Directories with no linked file anywhere below are
remembered by score, so that they need not be read again for the next version of the same source.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator
from functools import partial

from blake3 import blake3

from ventifs.errors import Corrupt, NotStored
from ventifs.store import Score, Store
from ventifs.tree.objects.prolly import leaves
from ventifs.tree.objects.records import Content, Directory, Tree, decode_entry
from ventifs.vfs.archived.entry_bytes import LINK_HEAD, NO_LINK, rest_of, seems_directory
from ventifs.vfs.interface import Cold, Load

_TREES_MAX = 64  # versions whose counts are kept
_BARREN_MAX = 200_000  # directories remembered, about 120 bytes each

log = logging.getLogger(__name__)


def claim_of(raw: bytes) -> bytes:
    """What the names of one file have in common, and no other file's names have."""
    digest: bytes = blake3(rest_of(raw)).digest(16)
    return digest


class LinkCounts:
    """Counts of names for the versions of one store.

    Concurrency: `count` belongs to the event loop; the loads run anywhere.
    """

    def __init__(self, store: Store) -> None:
        """Nothing is counted yet."""
        self._store = store
        self._counts: OrderedDict[Content, dict[bytes, int]] = OrderedDict()
        self._barren: set[bytes] = set()  # directories with no linked file anywhere below

    def count(self, tree: Content, raw: bytes) -> int:
        """How many names a linked file has in the version whose root directory is `tree`.

        Raises:
            Cold: with a load that counts all of this version's.
        """
        counts = self._counts.get(tree)
        if counts is None:
            raise Cold(Load(("links", tree), partial(self._bring, tree)))
        return counts.get(claim_of(raw), 1)

    def _bring(self, tree: Content) -> None:
        if tree in self._counts:
            return
        counts = dict(Counter(self._claims(tree)))
        self._counts[tree] = counts
        while len(self._counts) > _TREES_MAX:
            self._counts.popitem(last=False)
        if len(self._barren) > _BARREN_MAX:
            self._barren = set()

    def _claims(self, tree: Content) -> Iterator[bytes]:
        """The claim of every linked name in a tree; what is damaged has none, and is logged."""
        above: list[_Walked] = [self._walked(tree)]
        while above:
            walked = above[-1]
            if walked.below:
                above.append(self._walked(walked.below.pop()))
                continue
            above.pop()
            yield from walked.claims
            if not walked.linked and walked.score:
                self._barren.add(walked.score)
            elif above:
                above[-1].linked |= walked.linked

    def _walked(self, content: Content) -> "_Walked":
        walked = _Walked()
        if not isinstance(content, Tree) or content.score in self._barren:
            return walked
        walked.score = content.score
        try:
            for node in leaves(self._store.get, Score(content.score)):
                for item in node.items:
                    self._take(bytes(item), walked)
        except (Corrupt, NotStored) as error:
            log.error("links are not counted in a damaged directory: %s", error)
            walked.linked = True  # perhaps not; but a whole copy of it may have links
        return walked

    @staticmethod
    def _take(raw: bytes, walked: "_Walked") -> None:
        # Most entries are neither linked nor directories, which their bytes show undecoded.
        if raw.endswith(NO_LINK) and raw[-18:-16] != LINK_HEAD and not seems_directory(raw):
            return
        entry = decode_entry(raw)
        if entry.link:
            walked.claims.append(claim_of(raw))
            walked.linked = True
        elif isinstance(entry.detail, Directory):
            walked.below.append(entry.detail.content)


class _Walked:
    """A directory that is being counted: what is still to be read below it, and what was found."""

    __slots__ = ("below", "claims", "linked", "score")

    def __init__(self) -> None:
        self.score = b""
        self.below: list[Content] = []
        self.claims: list[bytes] = []
        self.linked = False

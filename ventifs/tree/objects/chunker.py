"""Cuts a stream into chunks: FastCDC, restarted after every hole.

A hole is a run of zeros that starts at a multiple of 4 KiB and is at least 32 KiB long. It is found
by content, so that the same bytes are cut in the same places on every file system; the holes that a
file system reports only save reading. Between holes, FastCDC (Xia et al., IEEE TPDS 2020)
cuts at 4096/16384/65536 bytes with normalisation 1. Cuts never depend on the sizes of reads: a cut
is taken only when the 64 KiB that decide it, the next hole, or the end have arrived.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Literal

from ventifs.errors import VentifsError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns without its compiled core; `new_cutter` refuses
    import pyfastcdc

CHUNK_MIN = 4096
CHUNK_AVERAGE = 16384
CHUNK_MAX = 65536
NORMALISATION: Literal[1] = 1
HOLE_ALIGN = 4096
HOLE_MIN = 32 << 10
_ZERO_PAGE = bytes(HOLE_ALIGN)
_HOLE_STARTS = bytes(HOLE_MIN // HOLE_ALIGN)  # the first bytes of a hole's pages


def new_cutter(seed: int = 0) -> "pyfastcdc.FastCDC":
    """A FastCDC instance; not to be shared between threads.

    Raises:
        VentifsError: when the compiled core is not in use; pure Python is far slower; see
            docs/performance.md.
    """
    if ".cy" not in pyfastcdc.FastCDC.__module__:
        raise VentifsError(
            "pyfastcdc runs without its compiled core: reinstall it from a wheel "
            "('pip install --force-reinstall pyfastcdc')"
        )
    return pyfastcdc.FastCDC(
        CHUNK_AVERAGE,
        min_size=CHUNK_MIN,
        max_size=CHUNK_MAX,
        normalized_chunking=NORMALISATION,
        seed=seed,
    )


class Chunker:
    """Cuts streams; one at a time, not to be shared between threads."""

    def __init__(self, seed: int = 0) -> None:
        """`seed` is the store's; 0 is FORMAT.md's own gear table."""
        self._cut = new_cutter(seed).cut_buf

    def plain(self, data: bytes) -> list[memoryview] | None:
        """The chunks of a whole stream if it has no hole; None if it may have one.

        The fast path for nearly all files, cheaper than `chunks`; see docs/performance.md.
        """
        if _HOLE_STARTS in data[::HOLE_ALIGN]:
            return None
        view, start, found = memoryview(data), 0, []
        for cut in self._cut(data):
            end = start + cut.length
            if not data[start] and not data[start:end].strip(b"\0"):
                return None
            found.append(view[start:end])
            start = end
        return found

    def chunks(self, pieces: Iterable[bytes | int]) -> Iterator[bytes | memoryview | int]:
        """Cut a stream.

        Args:
            pieces: the stream's bytes in order; an int is a number of zeros that were not read.
                Every piece but the last is a multiple of 4 KiB long.

        Yields:
            chunks of 1 byte to 64 KiB, none of them all zeros, each valid until the next; and
            lengths of holes, never two in a row.
        """
        hole = 0
        for chunk in self._raw_chunks(pieces):
            if isinstance(chunk, int):
                hole += chunk
            elif not chunk[0] and not bytes(chunk).strip(b"\0"):
                hole += len(chunk)  # a short run of zeros that fills a chunk
            else:
                if hole:
                    yield hole
                    hole = 0
                yield chunk
        if hole:
            yield hole

    def _raw_chunks(self, pieces: Iterable[bytes | int]) -> Iterator[memoryview | int]:
        zeros = 0  # length of the current run of zeros, which may become a hole
        stretch = bytearray()  # data since the last hole that is not cut yet
        for run in _runs(pieces):
            if isinstance(run, int):
                zeros += run
                continue
            if zeros >= HOLE_MIN:
                yield from self._cut_off(stretch, ended=True)
                yield zeros
                stretch = bytearray()
            else:
                stretch += bytes(zeros)
            zeros = 0
            stretch += run
            yield from self._cut_off(stretch, ended=False)
        if zeros < HOLE_MIN:
            stretch += bytes(zeros)
            zeros = 0
        yield from self._cut_off(stretch, ended=True)
        if zeros:
            yield zeros

    def _cut_off(self, stretch: bytearray, *, ended: bool) -> Iterator[memoryview]:
        """Cut what can be cut from the front of a stretch, and remove it."""
        if not ended and len(stretch) < 2 * CHUNK_MAX:
            return
        done, data = 0, bytes(stretch)
        view = memoryview(data)
        for chunk in self._cut(data):
            if not ended and done + CHUNK_MAX > len(data):
                break
            yield view[done : done + chunk.length]
            done += chunk.length
        del stretch[:done]


def _runs(pieces: Iterable[bytes | int]) -> Iterator[bytes | int]:
    """Separate 4 KiB pages of zeros, as their length, from other data."""
    for piece in pieces:
        if isinstance(piece, int):
            yield piece
            continue
        if b"\0" not in piece[::HOLE_ALIGN]:  # common case: no page begins with a zero
            yield piece
            continue
        starts, start, page_at = piece[::HOLE_ALIGN], 0, -1
        while (page_at := starts.find(0, page_at + 1)) >= 0:
            at = page_at * HOLE_ALIGN
            page = piece[at : at + HOLE_ALIGN]
            if page == _ZERO_PAGE[: len(page)]:
                if at > start:
                    yield piece[start:at]
                yield len(page)
                start = at + len(page)
        if start < len(piece):
            yield piece[start:]

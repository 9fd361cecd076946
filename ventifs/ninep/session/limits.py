"""The limits of a session, and what a peer is charged for it: declarations alone."""

import msgspec

from ventifs.serving.session import READ_MAX, WASTE_MAX

# Charges of a peer for what it makes the server hold (`vfs/memory_budget.py`): bytes of resident
# memory, measured with 200,000 fids at files of as many different entries, and rounded up.
FID_BYTES = 512  # with its number, its place in the table and its file: 388, checked for modes 436
# Of an open file or directory: 217, and where its reader is. An open directory above the versions
# also keeps a list of names or versions, which those opened in one generation of the store share.
OPEN_BYTES = 512
REQUEST_BYTES = 1024  # of a request in flight, without its frame
SESSION_OBJECTS_BYTES = 64 << 10  # of a session that has done nothing yet: 22 KiB, and its socket's

MSIZE_FIRST = 8192  # bytes of a message before a version is agreed on


class SessionLimits(msgspec.Struct, frozen=True):
    """The limits of a session.

    Attributes:
        msize_max: bytes of a message.
        fids_max: fids.
        held_max: bytes of extended attributes and places in directories, of all fids.
        in_flight_max: requests that are not answered, and loads that are not finished, also those
            of requests that were flushed; more requests are not read.
        in_flight_bytes_max: bytes of their frames, and of input not yet used; less with
            small messages, see `in_flight_bytes`. Also bytes of what threads read for single ones.
        turn_requests: requests that one turn answers.
        turn_bytes: bytes of replies after which a turn ends.
        turn_pinned: bytes of cached memory that replies keep, after which a turn ends.
        turn_s: seconds after which a turn ends; the clock is read after every fourth small reply.
    """

    msize_max: int = (1 << 20) + 24
    fids_max: int = 1 << 20
    held_max: int = 16 << 20
    in_flight_max: int = 256
    in_flight_bytes_max: int = 4 << 20
    turn_requests: int = 64
    turn_bytes: int = 256 << 10
    turn_pinned: int = 4 << 20
    turn_s: float = 0.001

    def in_flight_bytes(self, msize: int) -> int:
        """Bytes of frames in flight, and of input, with messages of this size."""
        return min(self.in_flight_bytes_max, max(msize, READ_MAX))

    def session_bytes(self, msize: int) -> int:
        """Bytes that a session can hold with messages of this size, without its fids.

        Its input, the frames of requests in flight, their objects, and replies to be sent.
        """
        frames = self.in_flight_bytes(msize)
        waiting = max(frames, msize) + READ_MAX + frames + msize
        replies = 2 * (self.turn_bytes + msize) + WASTE_MAX
        return SESSION_OBJECTS_BYTES + self.in_flight_max * REQUEST_BYTES + waiting + replies

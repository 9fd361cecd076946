"""What a client can have of a session, and what a session counts: declarations alone."""

import msgspec

# Threads that load for sessions (`loader.py`), and jobs that one does before the next session has
# its turn. Eight threads cut the rate of a session that needs none to a fifth; a hop to a thread
# costs about as much as a job, and the next session waits for all of it.
AT_ONCE = 2
BATCH = 8
# Results that nobody has taken yet: a hop begins while those of AT_ONCE others are unheard, so all
# threads together may add as many.
RESULTS_MAX = 2 * AT_ONCE * BATCH


class Limits(msgspec.Struct, frozen=True):
    """What a client can have of a session.

    Attributes:
        msize_max: bytes of a message.
        fids_max: fids.
        held_max: bytes of extended attributes and places in directories, of all fids.
        in_flight_max: requests that are not answered, and jobs that are not finished, also those
            of requests that were flushed; more are not read.
        in_flight_bytes_max: bytes of their frames, and of input that was not looked at.
        turn_requests: requests that one turn answers.
        turn_bytes: bytes of replies after which a turn ends.
        turn_pinned: bytes of cached memory that replies keep, after which a turn ends.
        turn_s: seconds after which a turn ends.
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


class Counters(msgspec.Struct):
    """What a session has done.

    Attributes:
        requests: by message type.
        replied: bytes of replies.
        errors: requests answered with an error.
        hits: requests answered within the turn they came in.
        colds: requests that had to wait.
    """

    requests: list[int] = msgspec.field(default_factory=lambda: [0] * 256)
    replied: int = 0
    errors: int = 0
    hits: int = 0
    colds: int = 0

"""How long tests wait for something that must happen, on whatever machine they run.

What always holds: the limit only ends a test that hangs. No result depends on it, and no test
compares two readings of a clock: how long something takes is the machine's affair. Ruff holds that
(`banned-api` in pyproject.toml): tests import no clock and no `sleep`, but this module does.
"""

import time
from collections.abc import Callable

import trio

PATIENCE_S = 300
LONG_PATIENCE_S = 3600  # of boots under emulation, and of looks at whole roots in a guest
_PAUSE_S = 0.002  # a wait that never pauses takes a core away from what it waits for


def wait_until(condition: Callable[[], object], *, unless: Callable[[], object] = bool) -> None:
    """Wait until something is so.

    Args:
        condition: is called again and again until its result is true.
        unless: is called as often; a true result is a failure, and is the message of it. It says
            that the condition cannot become true any more.

    Raises:
        AssertionError: `unless` has said so, or `PATIENCE_S` are over.
    """
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        failure = unless()
        if failure and not condition():  # it may have come just before the end
            raise AssertionError(failure)
        assert time.monotonic() < ends, f"it has not happened in {PATIENCE_S} s"
        time.sleep(_PAUSE_S)


async def wait_in_trio_until(condition: Callable[[], object]) -> None:
    """As `wait_until`, in a task: others go on meanwhile, on the real clock."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(_PAUSE_S)


def pause(seconds: float) -> None:
    """Do nothing for a while, so that what follows comes at some other moment; any must do."""
    time.sleep(seconds)

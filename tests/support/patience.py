"""How long tests wait for something that must happen, on any machine.

Always: the limit only ends a test that hangs. No result depends on it, and no test compares two
readings of a clock, since durations depend on the machine. Ruff bans clocks and `sleep` in tests
(`banned-api` in pyproject.toml); this module is exempt.
"""

import time
from collections.abc import Callable

import trio

from tests.support.sizes import LONG

PATIENCE_S = 300
LONG_PATIENCE_S = 3600 if LONG else 900  # for boots under emulation and reading whole roots
_PAUSE_S = 0.002  # a wait without pauses would take a core from what it waits for


def wait_until(condition: Callable[[], object], *, unless: Callable[[], object] = bool) -> None:
    """Wait until a condition is true.

    Args:
        condition: is called again and again until its result is true.
        unless: is called as often; a true result means that the condition cannot become true any
            more, and is the message of the failure.

    Raises:
        AssertionError: `unless` returned a message, or `PATIENCE_S` have passed.
    """
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        failure = unless()
        if failure and not condition():  # it may have become true just before the end
            raise AssertionError(failure)
        assert time.monotonic() < ends, f"it has not happened in {PATIENCE_S} s"
        time.sleep(_PAUSE_S)


async def wait_in_trio_until(condition: Callable[[], object]) -> None:
    """As `wait_until`, in a task, on the real clock; other tasks run meanwhile."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(_PAUSE_S)


def pause(seconds: float) -> None:
    """Do nothing for a while, to vary the moment of what follows; every moment must work."""
    time.sleep(seconds)

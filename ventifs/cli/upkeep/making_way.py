"""Lets a command in no hurry make way for servers and archives on a machine that is busy.

Niceness would not do: Linux weighs it only among processes of one session or control group, and a
server has its own. So the command pauses by itself. It does so only while other processes take
processors that it waits for; where it is alone, or a processor is free, it goes at full speed.
docs/performance.md has the figures.

Always: the caller of `MakingWay` holds no lock that others wait for. Where the kernel does not
report how long threads wait for a processor, there are no pauses.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

SHARE = 0.06  # of all processors, taken while others want all of them
LOOK_EVERY_S = 0.05  # /proc/stat counts hundredths of a second
PAUSE_MAX_S = 1.0  # so that it is soon noticed when others are done
WAITED_MIN = 0.15  # share of the time: two processes on two processors wait less
OTHERS_MIN = 0.5  # processors that others use


class Usage(msgspec.Struct, frozen=True):
    """Seconds so far.

    Attributes:
        now: of a clock.
        own: processor time of this process.
        waited: for which this thread could have run, and no processor was free.
        all: processor time of all processes of the machine.
    """

    now: float
    own: float
    waited: float
    all: float


def usage() -> Usage | None:
    """The machine's usage as of now, or None where the kernel does not report it."""
    with suppress(OSError, ValueError, IndexError):
        waited_ns = int(Path("/proc/thread-self/schedstat").read_bytes().split()[1])
        line = Path("/proc/stat").read_bytes().partition(b"\n")[0]
        user, nice, system, _, _, hard, soft = map(int, line.split()[1:8])
        ticks = user + nice + system + hard + soft
        return Usage(
            time.monotonic(),
            time.process_time(),
            waited_ns / 10**9,
            ticks / os.sysconf("SC_CLK_TCK"),
        )
    return None


class MakingWay:
    """Call it often; it sleeps when others need the processors."""

    def __init__(
        self,
        look: Callable[[], Usage | None] = usage,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at the machine for the first time."""
        self._look, self._sleep, self._clock = look, sleep, clock
        self._began = look()
        self._due = clock() + LOOK_EVERY_S

    def __call__(self) -> None:
        """Sleep, if that is due."""
        if self._began is None or self._clock() < self._due:
            return
        now = self._look()
        if now is not None:
            self._sleep(pause_for(self._began, now, len(os.sched_getaffinity(0))))
            self._began = self._look()
        self._due = self._clock() + LOOK_EVERY_S


def pause_for(began: Usage, now: Usage, processors: int) -> float:
    """Seconds to pause for what happened between two moments; 0 if processors were free."""
    elapsed = max(now.now - began.now, 1e-9)
    own = now.own - began.own
    others = (now.all - began.all - own) / elapsed
    waited = (now.waited - began.waited) / elapsed
    if waited < WAITED_MIN or others < OTHERS_MIN:
        return 0.0
    return min(own / (SHARE * processors), PAUSE_MAX_S)

"""What sessions have left behind, such as the fids of 9P, closed a few at a time.

A client may have a million, and closing all of them at once would hold up every other session: see
docs/performance.md. Always: other tasks of the event loop run between two portions; the memory of a
portion is given back with it.
"""

from collections import deque

import trio
from trio.lowlevel import checkpoint

from ventifs.serving.session import Leftover

# Files closed before other sessions go on: a short time, even for open files. It takes longer if
# nothing else keeps the files, so that they are dropped too. See docs/performance.md.
PORTION = 500


class DeferredClose:
    """Closes what it is given; `run` is its task.

    Concurrency: for the event loop's thread.
    """

    def __init__(self) -> None:
        """Start with nothing to close."""
        self._waiting: deque[Leftover] = deque()
        self._arrived = trio.Event()

    def add(self, leaving: Leftover) -> None:
        """Take over what a session left."""
        self._waiting.append(leaving)
        self._arrived.set()

    async def run(self) -> None:
        """Close until cancelled; what is left then ends with the process."""
        while True:
            while self._waiting:
                if self._waiting[0].some(PORTION):
                    self._waiting.rotate(-1)
                else:
                    self._waiting.popleft()
                await checkpoint()
            self._arrived = trio.Event()
            await self._arrived.wait()

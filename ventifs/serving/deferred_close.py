"""Fids that sessions have left behind, closed a few at a time.

A client may have a million; to close them takes a second, for which no other session is to wait.
What always holds: between two portions the event loop has its say; the memory of a portion is given
back with it.
"""

from collections import deque

import trio
from trio.lowlevel import checkpoint

from ventifs.serving.session import Leftover

# Fids closed before other sessions go on. At best this takes 0.1 ms, for open files 0.2 ms. To drop
# the files themselves, if nothing else keeps them, takes several times as long.
PORTION = 500


class DeferredClose:
    """Closes what it is given; `run` is its task.

    Concurrency: of the event loop's thread.
    """

    def __init__(self) -> None:
        """There is nothing."""
        self._waiting: deque[Leftover] = deque()
        self._arrived = trio.Event()

    def add(self, leaving: Leftover) -> None:
        """Take over fids."""
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

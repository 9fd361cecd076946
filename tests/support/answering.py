"""Serves real sessions over a stream or a Unix socket, with a minimal server."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from tests.support.patience import PATIENCE_S
from ventifs.buffer import joined
from ventifs.ninep.session.session import NinepSession, Trace
from ventifs.serving.session import StreamError
from ventifs.vfs.interface import Filesystem

Handle = Callable[[trio.abc.Stream], Awaitable[object]]


async def answer(session: NinepSession, stream: trio.abc.Stream) -> None:
    """Answer a client until it disconnects; loads run here, not in threads."""
    try:
        while True:
            if not session.more:
                data = await stream.receive_some(1 << 16)
                if not data:
                    return
                session.receive(bytes(data))
            replies = session.turn()
            if replies:
                await stream.send_all(joined(replies))
            for job in session.loads():
                try:
                    value = job.run()
                except Exception as error:
                    session.finish(job, error=error)
                else:
                    session.finish(job, value)
    except (StreamError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        session.close()
        await trio.aclose_forcefully(stream)


@contextmanager
def served(
    handle: Callable[[trio.abc.Stream], Awaitable[object]], socket_path: Path
) -> Iterator[str]:
    """Run a thread that passes each connection to a Unix socket to `handle`; yields its address."""
    ready = threading.Event()
    token: list[trio.lowlevel.TrioToken] = []
    scopes: list[trio.CancelScope] = []

    async def attend(stream: trio.abc.Stream) -> None:
        try:
            await handle(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def main() -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(socket_path))
            listener.listen()
            with trio.CancelScope() as scope:
                scopes.append(scope)
                token.append(trio.lowlevel.current_trio_token())
                ready.set()
                async with trio.open_nursery() as nursery:
                    while True:
                        accepted, _ = await listener.accept()
                        nursery.start_soon(attend, trio.SocketStream(accepted))

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield f"unix://{socket_path}"
    finally:
        with suppress(trio.RunFinishedError):
            token[0].run_sync_soon(scopes[0].cancel)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@contextmanager
def sessions(
    filesystem: Filesystem, socket_path: Path, *, trace: Trace | None = None
) -> Iterator[str]:
    """Serve sessions of a file system to all connections; yields the address."""

    async def handle(stream: trio.abc.Stream) -> None:
        await answer(NinepSession(filesystem, trace=trace), stream)

    with served(handle, socket_path) as address:
        yield address

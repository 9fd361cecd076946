"""Metrics: the text, and the little HTTP around it."""

import re
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.lowlevel import current_statistics
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.sessions import PATIENCE_S, until
from ventifs.net.address import TcpAddress
from ventifs.net.listen import listen
from ventifs.serving.activity import (
    Activity,
    LiveActivity,
    Process,
    SessionActivity,
    Totals,
    together,
)
from ventifs.serving.metrics import serve_metrics, text

_SAMPLE = re.compile(r'([a-z_]+)(\{[a-z]+="([^"\\\n]|\\.)*"\})? (\d+(\.\d+)?)')


def _session(**changes: int) -> SessionActivity:
    facts = dict.fromkeys(
        ("fids", "in_flight", "operations", "errors", "hits", "colds", "bytes_in", "bytes_out"), 0
    )
    return SessionActivity("tcp 192.0.2.1:5", 1.5, "9P2000.L", "/", "0", **{**facts, **changes})


def _activity() -> Activity:
    process = Process(
        sessions=[_session(fids=3, in_flight=2), _session(fids=4)],
        totals=Totals(
            sessions=7,
            operations={"Tread": 5, "Twalk": 6, 'odd"\\\n': 1},
            errors=8,
            hits=9,
            colds=10,
            bytes_in=11,
            bytes_out=12,
        ),
        cache_bytes=13,
        cache_bytes_max=14,
        client_bytes=21,
        client_bytes_max=22,
        loads=15,
        loads_ahead=16,
        loads_shared=17,
    )
    return Activity(
        pid=1,
        started=1000.5,
        store="/s",
        addresses=[],
        workers=2,
        restarts=3,
        refused=4,
        process=process,
        live=[
            LiveActivity("a", "/a", True, "shared", 5, restarts=18, connections=19, answers=True),
            LiveActivity("b", "/b", False, "shared", 6, restarts=1, connections=1, answers=False),
            LiveActivity("c", "/c", False, "exclusive", None, 0, connections=0, answers=True),
        ],
    )


def test_every_line_is_one_that_prometheus_reads() -> None:
    lines = text(_activity()).split("\n")
    assert lines.pop() == ""
    described = set()
    found = {}
    for line in lines:
        if line.startswith("#"):
            match = re.fullmatch(r"# (HELP|TYPE) ([a-z_]+) (.+)", line)
            assert match
            described.add((match[1], match[2]))
            assert match[1] == "HELP" or match[3] == (
                "counter" if match[2].endswith("_total") else "gauge"
            )
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, line
            assert {("HELP", match[1]), ("TYPE", match[1])} <= described
            found[match[1] + (match[2] or "")] = float(match[4])
    assert found.pop('ventifs_info{version="0.1.0"}') == 1
    assert found == {
        "ventifs_start_time_seconds": 1000.5,
        "ventifs_sessions": 2,
        "ventifs_sessions_total": 9,
        "ventifs_refused_connections_total": 4,
        "ventifs_fids": 7,
        "ventifs_in_flight": 2,
        'ventifs_operations_total{type="Tread"}': 5,
        'ventifs_operations_total{type="Twalk"}': 6,
        'ventifs_operations_total{type="odd\\"\\\\\\n"}': 1,
        "ventifs_errors_total": 8,
        "ventifs_cache_hits_total": 9,
        "ventifs_cache_misses_total": 10,
        "ventifs_received_bytes_total": 11,
        "ventifs_sent_bytes_total": 12,
        "ventifs_loads_total": 15,
        "ventifs_loads_ahead_total": 16,
        "ventifs_loads_shared_total": 17,
        "ventifs_cache_bytes": 13,
        "ventifs_cache_limit_bytes": 14,
        "ventifs_client_memory_bytes": 21,
        "ventifs_client_memory_limit_bytes": 22,
        "ventifs_workers": 2,
        "ventifs_worker_restarts_total": 3,
        "ventifs_live_exports": 3,
        "ventifs_live_processes": 2,
        "ventifs_live_silent": 1,
        "ventifs_live_connections": 20,
        "ventifs_live_restarts_total": 19,
    }


def test_processes_add_up() -> None:
    one = _activity().process
    whole = together([one, one, Process()])
    assert len(whole.sessions) == 4
    assert whole.totals.operations == {"Tread": 10, "Twalk": 12, 'odd"\\\n': 2}
    figures = {name: getattr(whole, name) for name in ("cache_bytes", "loads", "loads_ahead")}
    assert figures == {"cache_bytes": 26, "loads": 30, "loads_ahead": 32}
    assert (whole.totals.sessions, whole.totals.bytes_out, whole.cache_bytes_max) == (14, 24, 28)
    assert len(one.sessions) == 2
    assert one.totals.operations["Tread"] == 5


def _served(test: Callable[[Callable[[bytes], Awaitable[bytes]]], Awaitable[None]]) -> None:
    async def ask() -> Activity:
        return _activity()

    async def main() -> None:
        [listener] = listen(TcpAddress("127.0.0.1", 0))
        place = listener.getsockname()

        async def get(request: bytes) -> bytes:
            with trio.fail_after(PATIENCE_S):
                stream = await trio.open_tcp_stream(*place)
                async with stream:
                    await stream.send_all(request)
                    if not request.endswith(b"\r\n\r\n"):
                        stream.socket.shutdown(socket.SHUT_WR)
                    answer = b""
                    try:
                        while more := await stream.receive_some():
                            answer += more
                    except trio.BrokenResourceError:
                        pass  # it was told more than it cared to read
                    return answer

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_metrics, [listener], ask)
            await test(get)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_scrape() -> None:
    async def test(get: Callable[[bytes], Awaitable[bytes]]) -> None:
        for target in b"/metrics", b"/metrics?x=y":
            answer = await get(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            head, _, body = answer.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            assert lines[0] == "HTTP/1.1 200 OK"
            assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in lines
            assert f"Content-Length: {len(body)}" in lines
            assert body.decode() == text(_activity())
        answer = await get(b"HEAD /metrics HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n")
        assert f"Content-Length: {len(text(_activity()))}".encode() in answer

    _served(test)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metricsx HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\0\1\2", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: ", b"400"),
        (b"", b"400"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 1365, b"400"),
    ],
)
def test_what_is_no_scrape_is_refused(request_: bytes, status: bytes) -> None:
    async def test(get: Callable[[bytes], Awaitable[bytes]]) -> None:
        assert (await get(request_)).startswith(b"HTTP/1.1 " + status)
        assert (await get(b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")

    _served(test)


def test_who_says_nothing_is_not_waited_for_in_turns() -> None:
    async def ask() -> Activity:
        return _activity()

    async def main() -> None:
        [listener] = listen(TcpAddress("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_metrics, [listener], ask)
            await wait_all_tasks_blocked()
            before = current_statistics().tasks_living
            silent = [await trio.open_tcp_stream(*listener.getsockname()) for _ in range(30)]
            await until(lambda: current_statistics().tasks_living == before + len(silent))
            await wait_all_tasks_blocked()
            clock.jump(PATIENCE_S)  # of the server, which is less, once and not for each
            await until(lambda: current_statistics().tasks_living == before)
            for stream in silent:
                async with stream:
                    assert await stream.receive_some() == b""
            nursery.cancel_scope.cancel()

    clock = MockClock()
    trio.run(main, clock=clock)

"""A server's metrics for Prometheus: the text format 0.0.4, and as much HTTP as a scrape needs.

Written by hand: the format has three kinds of lines, and `activity` has already summed up the
figures over processes. prometheus_client would keep them a second time, in a registry of one
process, and serve them from a thread. Owns the names of the metrics: `_METRICS` lists all of them.
"""

import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator

import trio

from ventifs import __version__
from ventifs.serving.activity import Activity
from ventifs.text import one_line

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HEAD_MAX = 8 << 10  # bytes of a request
_PATIENCE_S = 10
_AT_ONCE = 8  # requests; a scrape is one

AskActivity = Callable[[], Awaitable[Activity]]
_Samples = Callable[[Activity], Iterable[tuple[dict[str, str], float]]]


def _one(figure: Callable[[Activity], float]) -> _Samples:
    return lambda activity: [({}, figure(activity))]


def _operations(activity: Activity) -> Iterator[tuple[dict[str, str], float]]:
    for name, number in sorted(activity.process.totals.operations.items()):
        yield {"type": name}, number


_METRICS: tuple[tuple[str, str, str, _Samples], ...] = (  # name, type, help, samples
    ("ventifs_info", "gauge", "The version that runs.", lambda _: [({"version": __version__}, 1)]),
    (
        "ventifs_start_time_seconds",
        "gauge",
        "When the server started, since 1970.",
        _one(lambda a: a.started),
    ),
    (
        "ventifs_sessions",
        "gauge",
        "Sessions that there are.",
        _one(lambda a: len(a.process.sessions)),
    ),
    (
        "ventifs_sessions_total",
        "counter",
        "Sessions that there have been.",
        _one(lambda a: a.process.totals.sessions + len(a.process.sessions)),
    ),
    (
        "ventifs_refused_connections_total",
        "counter",
        "Connections that were not let in.",
        _one(lambda a: a.refused),
    ),
    (
        "ventifs_fids",
        "gauge",
        "Files that clients hold.",
        _one(lambda a: sum(session.fids for session in a.process.sessions)),
    ),
    (
        "ventifs_in_flight",
        "gauge",
        "Requests not answered yet.",
        _one(lambda a: sum(session.in_flight for session in a.process.sessions)),
    ),
    ("ventifs_operations_total", "counter", "Requests, by their message.", _operations),
    (
        "ventifs_errors_total",
        "counter",
        "Requests answered by an error.",
        _one(lambda a: a.process.totals.errors),
    ),
    (
        "ventifs_cache_hits_total",
        "counter",
        "Requests answered out of memory.",
        _one(lambda a: a.process.totals.hits),
    ),
    (
        "ventifs_cache_misses_total",
        "counter",
        "Requests that waited for a thread or for other requests.",
        _one(lambda a: a.process.totals.colds),
    ),
    (
        "ventifs_received_bytes_total",
        "counter",
        "Bytes of requests.",
        _one(lambda a: a.process.totals.bytes_in),
    ),
    (
        "ventifs_sent_bytes_total",
        "counter",
        "Bytes of replies.",
        _one(lambda a: a.process.totals.bytes_out),
    ),
    ("ventifs_loads_total", "counter", "Loads that threads ran.", _one(lambda a: a.process.loads)),
    (
        "ventifs_loads_ahead_total",
        "counter",
        "Of these, those begun before anybody asked.",
        _one(lambda a: a.process.loads_ahead),
    ),
    (
        "ventifs_loads_shared_total",
        "counter",
        "Loads that another's run served.",
        _one(lambda a: a.process.loads_shared),
    ),
    (
        "ventifs_cache_bytes",
        "gauge",
        "Decoded clumps in memory.",
        _one(lambda a: a.process.cache_bytes),
    ),
    (
        "ventifs_cache_limit_bytes",
        "gauge",
        "Decoded clumps that may be in memory.",
        _one(lambda a: a.process.cache_bytes_max),
    ),
    (
        "ventifs_client_memory_bytes",
        "gauge",
        "Memory that clients' files and messages are charged.",
        _one(lambda a: a.process.client_bytes),
    ),
    (
        "ventifs_client_memory_limit_bytes",
        "gauge",
        "What they may be charged.",
        _one(lambda a: a.process.client_bytes_max),
    ),
    ("ventifs_workers", "gauge", "Worker processes.", _one(lambda a: a.workers)),
    (
        "ventifs_worker_restarts_total",
        "counter",
        "Workers that died and were started anew.",
        _one(lambda a: a.restarts),
    ),
    ("ventifs_live_exports", "gauge", "Live exports.", _one(lambda a: len(a.live))),
    (
        "ventifs_live_processes",
        "gauge",
        "Processes of live exports.",
        _one(lambda a: sum(each.pid is not None for each in a.live)),
    ),
    (
        "ventifs_live_silent",
        "gauge",
        "Processes of live exports that do not answer, as when their disk hangs.",
        _one(lambda a: sum(not each.answers for each in a.live)),
    ),
    (
        "ventifs_live_connections",
        "gauge",
        "Connections to live exports.",
        _one(lambda a: sum(each.connections for each in a.live)),
    ),
    (
        "ventifs_live_restarts_total",
        "counter",
        "Processes of live exports that were started anew.",
        _one(lambda a: sum(each.restarts for each in a.live)),
    ),
)


def text(activity: Activity) -> str:
    """All metrics, as Prometheus reads them."""
    lines: list[str] = []
    for name, kind, meaning, samples in _METRICS:
        lines += f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"
        for labels, value in samples(activity):
            inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
            lines.append(f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}")
    return "\n".join([*lines, ""])


async def serve_metrics(listeners: Iterable[socket.socket], ask: AskActivity) -> None:
    """Answer scrapes at listening sockets, until cancelled. Each connection is for one."""
    limiter = trio.CapacityLimiter(_AT_ONCE)

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            # Limits the wait for its turn too: else silent clients would use up all descriptors.
            with trio.move_on_after(_PATIENCE_S):
                async with limiter:
                    try:
                        await stream.send_all(await _response(await _head(stream), ask))
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        return

    await trio.serve_listeners(
        answer,
        [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in listeners],
    )


async def _head(stream: trio.SocketStream) -> bytes:
    """A request's head, or the part that came of one that is too long or broken off."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _HEAD_MAX:
        more = await stream.receive_some(_HEAD_MAX - len(head))
        if not more:
            break
        head += more
    return bytes(head)


async def _response(head: bytes, ask: AskActivity) -> bytes:
    words = head.partition(b"\r\n")[0].split(b" ")
    if b"\r\n\r\n" not in head or len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _http("400 Bad Request", "this is no HTTP request\n")
    method, target, _ = words
    if method not in {b"GET", b"HEAD"}:
        return _http("405 Method Not Allowed", "use GET\n", "Allow: GET, HEAD\r\n")
    if target.partition(b"?")[0] != b"/metrics":
        return _http("404 Not Found", "metrics are at /metrics\n")
    whole = _http("200 OK", text(await ask()))
    return whole if method == b"GET" else whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _http(status: str, body: str, headers: str = "") -> bytes:
    packed = body.encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(packed)}\r\n"
        f"{headers}Connection: close\r\n\r\n"
    ).encode() + packed


def _escaped(label: str) -> str:
    """A label's value as the format has it; nonprintable characters but newlines are escaped."""
    label = "\n".join(map(one_line, label.split("\n")))
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""Figures of what a server does and did: of each session, and of all sessions of a process.

Owns the structs that control sockets, workers and metrics carry, and how the figures of several
processes are added up. Knows no sessions and no sockets.
"""

from collections.abc import Iterable

import msgspec


class SessionActivity(msgspec.Struct):
    """A session, as it is now.

    Attributes:
        peer: the client, as in log lines.
        since: its beginning, in seconds since 1970.
        dialect: the version of the protocol that was agreed on; None before.
        export, user: of its first attach; None before.
        fids: it holds now.
        in_flight: requests not answered yet.
        operations: requests so far.
        errors: of these, those answered by an error.
        hits, colds: requests answered without waiting, and those that waited, for a thread or for
            earlier requests. Errors answered without waiting are neither.
        bytes_in, bytes_out: carried so far.
        memory: bytes that its peer is charged for it.
    """

    peer: str
    since: float
    dialect: str | None
    export: str | None
    user: str | None
    fids: int
    in_flight: int
    operations: int
    errors: int
    hits: int
    colds: int
    bytes_in: int
    bytes_out: int
    memory: int = 0


class Totals(msgspec.Struct):
    """What all sessions did since the start.

    Attributes:
        sessions: those that have ended.
        operations: requests by the name of their message.
    """

    sessions: int = 0
    operations: dict[str, int] = {}
    errors: int = 0
    hits: int = 0
    colds: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def copy(self) -> "Totals":
        """An independent copy."""
        return msgspec.structs.replace(self, operations=dict(self.operations))

    def add(self, other: "Totals") -> None:
        """Add the totals of another process."""
        for name, number in other.operations.items():
            self.operations[name] = self.operations.get(name, 0) + number
        self.sessions += other.sessions
        self.errors += other.errors
        self.hits += other.hits
        self.colds += other.colds
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out


class Process(msgspec.Struct):
    """One process that has sessions.

    Attributes:
        cache_bytes, cache_bytes_max: of decoded clumps, held and allowed.
        refused: connections that there was no memory for.
        client_bytes, client_bytes_max: of memory that clients hold, and may hold.
        loads: loads that threads ran.
        loads_ahead: of these, those that began before a request waited for them.
        loads_shared: loads that joined one of an equal key that another request waited for.
    """

    sessions: list[SessionActivity] = []
    totals: Totals = msgspec.field(default_factory=Totals)
    cache_bytes: int = 0
    cache_bytes_max: int = 0
    refused: int = 0
    client_bytes: int = 0
    client_bytes_max: int = 0
    loads: int = 0
    loads_ahead: int = 0
    loads_shared: int = 0


class LiveActivity(msgspec.Struct):
    """One live export.

    Attributes:
        directory: as it was named at the start.
        writable, sharing: see `LiveExport`.
        pid: of its process; None if it has none now.
        restarts: how many times its process was started again.
        connections: that its process has.
        answers: whether its process answered when it was last asked; if not, its disk may hang.
    """

    name: str
    directory: str
    writable: bool
    sharing: str
    pid: int | None
    restarts: int
    connections: int
    answers: bool


class Activity(msgspec.Struct):
    """A whole server.

    Attributes:
        pid: of the process that listens.
        started: in seconds since 1970.
        store: its directory; empty without one.
        addresses: where it listens.
        workers: processes that have sessions; 0 when the listening process has them itself.
        restarts: how many times a worker that had died was started again.
        refused: connections that were refused.
        process: the figures of all workers together, or of the listening process; with those of the
            live exports' processes.
        live: the live exports.
    """

    pid: int
    started: float
    store: str
    addresses: list[str]
    workers: int
    restarts: int
    refused: int
    process: Process
    live: list[LiveActivity] = []


def together(processes: Iterable[Process]) -> Process:
    """Add up the figures of several processes."""
    whole = Process()
    for process in processes:
        whole.sessions = [*whole.sessions, *process.sessions]
        whole.totals.add(process.totals)
        whole.cache_bytes += process.cache_bytes
        whole.cache_bytes_max += process.cache_bytes_max
        whole.refused += process.refused
        whole.client_bytes += process.client_bytes
        whole.client_bytes_max += process.client_bytes_max
        whole.loads += process.loads
        whole.loads_ahead += process.loads_ahead
        whole.loads_shared += process.loads_shared
    return whole

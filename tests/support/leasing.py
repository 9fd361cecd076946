"""Children that hold leases, and what a reclaimer sees of leases."""

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.conversing import Answer, answer_all
from ventifs.store import Store
from ventifs.store.leases import Lease, leased


def hold_leases(connection: Connection, root: Path) -> None:
    """Hold a store open, and take leases when asked."""
    held: dict[bytes, Lease] = {}
    with Store.open(root) as store:

        def take(*roots: bytes) -> int:
            for each in roots:
                held[each] = store.lease(each)
            return sum(len(lease.roots) for lease in held.values())

        def release(*roots: bytes) -> None:
            for each in roots:
                held.pop(each).release()

        answers: dict[str, Answer] = {
            "take": take,
            "release": release,
            "leased": lambda: leased(root),
            "fork": fork,
        }
        answer_all(connection, answers)


def fork() -> int:
    """Fork a child that does nothing until it is killed; return its number when it runs."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            os.write(write, b"!")
            os.close(write)
            signal.pause()  # until it is killed
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"!"
    os.close(read)
    return child


def files(root: Path) -> list[str]:
    """The names in `leases/`."""
    return sorted(os.listdir(root / "leases"))

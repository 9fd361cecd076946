"""What a live export has answered survives kill -9 of the process that serves it.

At 20 random points, or at 200 if VENTIFS_LONG is set.
"""

import os
import random
import select
from pathlib import Path

import pytest

from tests.support.live_writer import LiveWriter
from tests.support.patience import PATIENCE_S
from tests.support.processes import kill_stranger
from tests.support.serve import Serve

pytestmark = pytest.mark.slow

LONG = bool(os.environ.get("VENTIFS_LONG"))
KILLS, SERVERS_KILLED = (180, 20) if LONG else (16, 4)
UIDS = (0, 1000) if os.geteuid() == 0 else (0,)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A place for a server, with a directory that every user may write to."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree").chmod(0o777)
    return tmp_path


def serve(home: Path) -> Serve:
    (home / "s").unlink(missing_ok=True)
    return Serve(home, "--live", f"x={home / 'tree'},rw", f"unix://{home / 's'}")


def writing(home: Path, server: Serve, seed: int) -> LiveWriter:
    """A client with requests in flight, at a random point."""
    rng = random.Random(seed)
    writer = LiveWriter(server.addresses[0], b"x", seed, rng.choice(UIDS))
    writer.begin()
    writer.go_on(rng.randrange(1, 600))
    return writer


def test_an_export_is_served_again_with_all_that_was_answered(home: Path) -> None:
    """Only the export's process is killed: the server starts it again for the next client."""
    dead = []
    with serve(home) as server:
        for seed in range(KILLS):
            writer = writing(home, server, seed)
            [process] = server.workers()
            kill_stranger(process)
            writer.drain()
            dead.append(writer)
            assert server.process.poll() is None
            writer.check(home / "tree")
        last = writing(home, server, KILLS)
        assert last.answers
        last.close()
        for writer in dead:
            writer.check(home / "tree")


def test_a_server_that_is_killed_loses_nothing_that_was_answered(home: Path) -> None:
    for seed in range(SERVERS_KILLED):
        with serve(home) as server:
            writer = writing(home, server, seed)
            [process] = server.workers()
            child = os.pidfd_open(process)
            server.process.kill()
            server.process.wait()
            writer.drain()
            assert select.select([child], [], [], PATIENCE_S)[0], "it outlives the server"
            os.close(child)
            writer.check(home / "tree")

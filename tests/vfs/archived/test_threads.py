"""Loads run by two threads beside the loop, as a server runs them: nothing is mixed up or lost."""

import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.clock import Clock
from tests.support.stores import new_store
from tests.support.trees import archived, noise
from ventifs.buffer import joined
from ventifs.store import Store
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split
from ventifs.vfs.interface import Cold, Opened, User

Operation = Callable[[], None]


def run_all(operations: list[Operation], files: ArchiveFilesystem) -> int:
    """Retry each until it is done, loads of equal keys run once; how many loads were run."""
    waiting: deque[tuple[Operation, Future[None] | None]] = deque(
        (operation, None) for operation in operations
    )
    running: dict[object, Future[None]] = {}
    count = 0
    with ThreadPoolExecutor(2) as pool:
        while waiting:
            operation, future = waiting.popleft()
            if future is not None:
                future.result(60)
            try:
                operation()
            except Cold as cold:
                key = cold.load.key
                if key not in running or running[key].done():
                    running[key] = pool.submit(cold.load.run)
                    count += 1
                waiting.append((operation, running[key]))
            for load in files.ahead():
                pool.submit(load.run)
    return count


@pytest.mark.parametrize("cache", [1, 64 << 20])
def test_many_readers_and_walkers_at_once(tmp_path: Path, cache: int) -> None:
    source, store = tmp_path / "source", new_store(tmp_path / "store")
    contents: dict[bytes, bytes] = {}
    for directory in range(6):
        (source / str(directory)).mkdir(parents=True)
        for number in range(60):
            data = noise(400_000 if number == 0 else 3000, directory * 1000 + number)
            (source / str(directory) / f"{number:03}").write_bytes(data)
            contents[b"%d/%03d" % (directory, number)] = data
    archived(store, source, "n")
    split = Split.of(cache)
    rng = random.Random(1)
    with Store.open(store, cache_bytes=split.clumps) as opened:
        files = ArchiveFilesystem(opened, split, clock=Clock())
        done: list[bytes] = []

        def reader(path: bytes) -> Operation:
            data, read, handles = contents[path], bytearray(), list[Opened]()

            def go() -> None:
                if not handles:
                    at = files.attach(User(), b"n@latest")
                    for name in path.split(b"/"):
                        at = at.walk(name)
                    assert at.attributes().size == len(data)
                    handles.append(at.open(0))
                while len(read) < len(data):
                    read.extend(joined(handles[0].read(len(read), 50_000)))
                assert bytes(read) == data
                handles[0].close()
                done.append(path)

            return go

        def lister(directory: int) -> Operation:
            names: list[bytes] = []

            def go() -> None:
                at = files.attach(User(), b"n@latest:/%d" % directory)
                for _, name, _, _ in at.open(0).entries(len(names)):
                    names.append(name)
                assert names == [b".", b".."] + [b"%03d" % number for number in range(60)]
                done.append(b"%d" % directory)

            return go

        operations = [reader(path) for path in contents] + [lister(n) for n in range(6)]
        rng.shuffle(operations)
        loads = run_all(operations, files)
        assert sorted(done) == sorted([*contents, *(b"%d" % n for n in range(6))])
        assert loads >= 7

"""Resources that are made once per test run and shared by all its pytest-xdist processes.

The first process that needs a resource makes it while the others wait; the last one that leaves it
removes it. A half-made resource of a killed run is made anew.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.trees import remove


def base_of(factory: pytest.TempPathFactory) -> Path:
    """The directory that all processes of a test run have in common; pytest removes it later."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextmanager
def shared(base: Path, name: str, make: Callable[[Path], str]) -> Iterator[tuple[Path, str]]:
    """A directory below `base`, and what `make` returned when it filled the directory.

    The process that makes or removes it holds one lock; all users hold another lock, shared.
    """
    directory, facts = base / name, base / f"{name}.facts"
    with (base / f"{name}.use").open("w") as used:
        with _alone(base / f"{name}.lock"):
            if not facts.exists():
                remove(directory)
                directory.mkdir()
                new = facts.with_suffix(".new")
                new.write_text(make(directory))
                new.rename(facts)
            fcntl.flock(used, fcntl.LOCK_SH)
        try:
            yield directory, facts.read_text()
        finally:
            with _alone(base / f"{name}.lock"), suppress(BlockingIOError):  # still in use
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
                facts.unlink()
                remove(directory)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

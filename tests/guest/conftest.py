"""What guests need: a network, two real roots archived and served in it, and a guest that runs.

The roots are archived once a test run, the rest is made once a process of it, since a root takes
its seconds to archive and a guest to boot; a guest that died in one test is booted anew for the
next.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import segment, uml
from tests.support.roots import guest_roots
from tests.support.segment import Segment
from tests.support.serving import Exported, exporting
from tests.support.sharing import base_of
from tests.support.trees import remove
from tests.support.uml import Uml


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory that is removed in the end; pytest keeps its own."""
    directory = Path(tempfile.mkdtemp(prefix="guest-"))
    yield directory
    remove(directory)


@pytest.fixture(scope="session")
def network() -> Iterator[Segment]:
    """A network of the tests' own."""
    if why := segment.why_not():
        pytest.skip(why)
    with Segment() as made:
        yield made


@pytest.fixture(scope="session")
def exported(
    network: Segment, scratch: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    """Two versions of a real root, served."""
    base = base_of(tmp_path_factory)
    with exporting(network, base, scratch, guest_roots()) as served:
        yield served


class Guests:
    """The guest of the moment."""

    def __init__(self, network: Segment, scratch: Path) -> None:
        self._network = network
        self._scratch = scratch
        self._running: Uml | None = None
        self._booted = 0

    def running(self) -> Uml:
        """It, booted if there is none that runs."""
        if self._running is None or not self._running.alive:
            self._booted += 1
            self._running = Uml(self._network, self._scratch / f"guest{self._booted}")
        return self._running

    def kill(self) -> None:
        """End it."""
        if self._running is not None:
            self._running.kill()


@pytest.fixture(scope="session")
def guests(network: Segment, scratch: Path) -> Iterator[Guests]:
    """Where guests come from."""
    if why := uml.why_not():
        pytest.skip(why)
    made = Guests(network, scratch)
    yield made
    made.kill()


@pytest.fixture
def guest(guests: Guests) -> Uml:
    """A User-mode Linux guest that runs, in the network of the server."""
    return guests.running()


@pytest.fixture
def free_tap(request: pytest.FixtureRequest) -> None:
    """The network's tap device, which one guest at a time can have, is nobody's."""
    if not uml.why_not():
        request.getfixturevalue("guests").kill()

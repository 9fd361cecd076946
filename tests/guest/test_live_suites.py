"""The short ones of tools/suites, each with little to do: live trees in a guest, both kinds."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import segment, uml
from tests.support.segment import FIRST, SECOND, Segment, missing_programs
from tests.support.trees import remove
from tools.suite.setting import Guests, Setting
from tools.suite.suites import SUITES

pytestmark = pytest.mark.slow
_SCALE = 0.02
_RUNS = [
    ("posix", "shared"),
    ("posix", "loose"),
    ("fsx", "shared"),
    ("fsx", "exclusive"),
    ("git", "exclusive"),
    ("sqlite", "exclusive"),
    ("removal", "shared"),
    ("xfs_io", "loose"),
    ("two-guests", "shared"),
    ("killed", "shared"),
]


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """A directory that only root enters, so that root may write exports below it."""
    if why := segment.why_not() or uml.why_not():
        pytest.skip(why)
    directory = Path(tempfile.mkdtemp(prefix="suites-"))
    yield directory
    remove(directory)


@pytest.fixture(scope="module")
def guests(work: Path) -> Iterator[tuple[Segment, Guests]]:
    """Guests that stay for all suites."""
    with Segment(FIRST, SECOND) as network:
        made = Guests(network, work, None)
        yield network, made
        made.kill()


@pytest.mark.parametrize(("name", "kind"), _RUNS)
def test_a_suite(name: str, kind: str, work: Path, guests: tuple[Segment, Guests]) -> None:
    suite = next(suite for suite in SUITES if suite.name == name)
    if missing := missing_programs(suite.programs):
        pytest.skip(f"needs {' '.join(missing)}")
    network, ours = guests
    directory = Path(tempfile.mkdtemp(dir=work))
    try:
        suite.run(Setting("ventifs", kind, work, directory, _SCALE, network, ours))
    except BaseException:
        ours.kill()
        raise
    remove(directory)

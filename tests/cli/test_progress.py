"""What is shown of long work."""

import pytest

from tests.support.clock import Clock
from ventifs.cli.formatting import duration
from ventifs.cli.progress import EntryProgress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00 min"),
        (185, "3:05 min"),
        (7800, "2:10 h"),
        (360_000, "100:00 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_left_is_told_of_work_whose_size_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    told = EntryProgress("restoring", expected_entries=100, expected_bytes=5_000_000, clock=clock)
    clock.now_s = 20.0
    told(50, 2_500_000, b"a/path")
    clock.now_s = 60.0
    told(200, 9_000_000, b"a/path")  # more than was expected: nothing is foretold
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "restoring: 50 entries, 2.50 MB, 125 kB/s, 50.0 %, 20 s left",
        "restoring: 200 entries, 9.00 MB, 150 kB/s",
    ]


def test_of_other_work_it_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    told = EntryProgress("archiving", clock=clock)
    clock.now_s = 20.0
    told(50, 2_500_000, b"a/path")
    assert capsys.readouterr().err == "archiving: 50 entries, 2.50 MB, 125 kB/s\n"

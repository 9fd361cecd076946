"""What the bench of live trees reads and prints, and its generator on a real server."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.segment import missing_programs
from tools.bench import live, live_guest, live_tcg, rounds
from tools.bench.contestants import Diod, Place, compiled_load

MISSING = missing_programs(["diod", "gcc"])
USER = 1000


def test_rows_are_chosen_by_how_their_names_begin() -> None:
    assert live.chosen_rows("raw create d,memory: a fid") == {
        "raw create depth 1",
        "raw create depth 16",
        "memory: a fid",
    }
    with pytest.raises(ValueError, match=r"^row$"):
        live.chosen_rows("raw,row")


def test_every_row_of_a_guest_has_a_target() -> None:
    assert set(live.TARGETS) >= {*live_guest.WORK, *live_tcg.WORK, *live.RAW}
    assert set(live_guest.TARGETS.values()) == {
        (1.0, "aim 1.5"),
        (0.8, "aim 1.2"),
    }


def test_a_row_below_its_target_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    slow: rounds.Runs = {"diod": [{"seconds": 1.0}] * 3, "ventifs": [{"seconds": 2.0}] * 3}
    rounds.show("row", slow, "seconds", (0.8, "aim 1.2"))
    rounds.show("row", slow, "seconds", (0.5, ""))
    slow["ventifs"][1:] = [{"seconds": 1.0}, {"seconds": 1.0}]
    rounds.show("row", slow, "seconds", (0.8, ""))
    one, same, other = capsys.readouterr().out.splitlines()
    assert "0.50 (0.8, aim 1.2) BELOW" in one
    assert "0.50 (0.5)" in same
    assert "BELOW" not in same
    assert "1.00 (0.8)" in other
    assert "BELOW" not in other


def test_rates_are_ratios_of_ours_to_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    runs: rounds.Runs = {"diod": [{"bytes_s": 1e9}], "ventifs": [{"bytes_s": 3e9}]}
    rounds.show("row", runs, "bytes_s", (1, ""))
    assert capsys.readouterr().out.split() == [
        "row",
        "3,000",
        "MB/s",
        "diod",
        "1,000",
        "3.00",
        "(1)",
    ]


def test_what_an_emulated_guest_prints_is_read_by_row_and_server() -> None:
    console = """
        Throughput 12.5 MB/sec 1 procs
        took virtio-9p 10.00 12.50 tcg dbench 1
        Throughput 25 MB/sec 1 procs
        took ventifs 12.50 14.00 tcg dbench 1
        took virtio-9p 14.00 15.00 tcg postmark
        took ventifs 15.00 17.00 tcg postmark
    """
    found = live_tcg.results(console, ["tcg dbench 1", "tcg postmark"])
    assert found == {
        "tcg dbench 1": {
            "virtio-9p": [{"seconds": 2.5, "bytes_s": 12.5e6}],
            "ventifs": [{"seconds": 1.5, "bytes_s": 25e6}],
        },
        "tcg postmark": {"virtio-9p": [{"seconds": 1.0}], "ventifs": [{"seconds": 2.0}]},
    }


def test_rates_that_programs_print_are_read() -> None:
    job = {"read": {"iops": 10.5}, "write": {"iops": 2.0}}
    assert live_guest.fio_rate(f"fio: a note\n{json.dumps({'jobs': [job]})}") == 12.5
    with pytest.raises(AssertionError, match="no throughput"):
        live_guest.dbench_rate("failed to create barrier semaphore")


@pytest.fixture
def diod() -> Iterator[Diod]:
    """Serves a directory that user 1000 may write, at a Unix socket."""
    if os.geteuid() or MISSING:
        pytest.skip(f"needs root and {' '.join(MISSING) or 'no more'}")
    with tempfile.TemporaryDirectory() as top:  # diod walks to it as the user
        scratch = Path(top)
        scratch.chmod(0o755)
        tree = scratch / "tree"
        tree.mkdir()
        os.chown(tree, USER, USER)
        place = Place({"tree": tree}, scratch / "none", scratch, compiled_load(scratch), unix=True)
        with Diod(place) as server:
            yield server


@pytest.mark.parametrize("depth", [1, 16])
def test_files_are_created_as_the_user_and_nothing_is_left(diod: Diod, depth: int) -> None:
    told = ("-u", USER, "-d", depth, "-s", 0.1)
    result = diod.load("create-remove", "tree", ["/"], *told)
    assert result["errors"] == 0 < result["ops"]
    assert result["replies_total"] >= 7 * result["ops"]
    assert list(diod.place.trees["tree"].iterdir()) == []


def test_an_error_of_the_server_ends_the_bench(
    diod: Diod, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="load failed against diod"):
        diod.load("create-remove", "tree", ["/"], "-u", USER + 1, "-s", 0.1)
    assert "Permission denied" in capfd.readouterr().err
    process: subprocess.Popen[str] = diod.start_load("create", "tree", ["/"], "-u", USER)
    process.communicate()
    assert process.returncode == 1  # diod 1.0.24 has no Tunlinkat

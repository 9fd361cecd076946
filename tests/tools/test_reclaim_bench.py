"""What the reclaim bench works on: nights that repeat, the versions kept, made-up stores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tools.bench import history, nights, synthetic
from ventifs.store.arenas import Arenas
from ventifs.store.index import Index

ROOT = Path(__file__).parents[2]


def contents(top: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()
    }


def guest(top: Path) -> Path:
    for number in range(60):
        path = top / f"usr/share/{number % 7}/file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 10_000)
    return top


def test_a_night_with_the_same_seed_changes_the_same(tmp_path: Path) -> None:
    one, same, other = (guest(tmp_path / name) for name in ("one", "same", "other"))
    for top, seed in ((one, 1), (same, 1), (other, 2)):
        nights.pass_night(top, 500_000, seed)
    assert contents(one) == contents(same)
    assert contents(one) != contents(other)


def test_half_of_what_nights_have_made_goes_again(tmp_path: Path) -> None:
    guest(tmp_path)
    made = {tmp_path / "usr" / f"made-{number}" for number in range(10)}
    for path in made:
        path.write_bytes(b"x")
    nights.pass_night(tmp_path, 0, 1)
    assert sum(path.exists() for path in made) == 5


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        (30, {1, 7, 14, 20, 27, 28, 29, 30}),
        (9, {1, 2, 3, 4, 6, 7, 8, 9}),
        (8, {1, 2, 3, 4, 5, 6, 7, 8}),
        (3, {1, 2, 3}),
        (1, {1}),
    ],
)
def test_the_last_four_nights_stay_and_four_before_them(count: int, kept: set[int]) -> None:
    assert history.kept_nights(count) == kept


def test_a_share_of_the_files_is_always_the_same(tmp_path: Path) -> None:
    root = guest(tmp_path / "root")
    (root / "link").symlink_to("usr")
    for name, scale in (("half", 0.5), ("again", 0.5), ("all", 1)):
        history.copy_share(root, tmp_path / name, scale)
    half, everything = contents(tmp_path / "half"), contents(root)
    assert contents(tmp_path / "all") == everything
    assert contents(tmp_path / "again") == half
    assert 0 < len(half) < len(everything)
    assert half.items() <= everything.items()
    assert (tmp_path / "half" / "link").is_symlink()


def test_a_made_up_store_is_a_sound_one(tmp_path: Path) -> None:
    count = synthetic.PER_ARENA + 160  # the last arena is shorter
    synthetic.make(tmp_path, count)
    index = Index(tmp_path / "index", synthetic.STORE_ID)
    arenas = Arenas(tmp_path, synthetic.STORE_ID)
    entries = {
        (place.arena, place.offset, place.position): score
        for score, place in index.entries()
        if place is not None
    }
    listed = {}
    for arena_id in arenas.sealed_ids():
        arena = arenas.reader(arena_id)
        arena.check_header(synthetic.STORE_ID)
        trailer = arena.trailer()
        assert trailer is not None
        for offset, head in arena.directory(trailer):
            for position, (score, _) in enumerate(head.blocks):
                listed[arena_id, offset, position] = score
    index.close()
    arenas.close()
    assert len(entries) == count
    assert entries == listed


def test_its_join_finds_what_lives(tmp_path: Path) -> None:
    count = 4096
    synthetic.make(tmp_path, count)
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.synthetic", "--join", tmp_path, "--blocks", str(count)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["live"] == sum(map(synthetic.lives, range(count)))


def test_it_says_where_there_is_too_little_room(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.synthetic", "--blocks", "1" + 13 * "0"],
        check=False,
        cwd=ROOT,
        env={"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"reclaim: {tmp_path}: ")
    assert done.stderr.endswith("GB needed; choose another disk by --work\n")
    assert list(tmp_path.iterdir()) == []


def test_what_a_command_waits_for_is_noted(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from tools.bench import waits
waits.note_waits(Path({str(tmp_path / "notes")!r}))
from ventifs.store.lock import store_lock
with store_lock(Path({str(tmp_path)!r}), alone=False):
    pass
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=PATIENCE_S)
    (line,) = (tmp_path / "notes").read_text().splitlines()
    assert line.split(" ", 1)[1].startswith("the store is in use: ")

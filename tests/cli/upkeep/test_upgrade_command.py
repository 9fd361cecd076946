"""`ventifs upgrade` and the reserve, as an administrator meets them."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.commanding import PATIENCE_S, SCRIPT, parsed, run
from tests.support.disks import Disk, mounted, mounted_btrfs, mounted_ext4
from tests.support.trees import noise, plain_tree
from ventifs.store import Store
from ventifs.store.files import Files
from ventifs.store.header import read_header, write_header
from ventifs.store.reserve import RESERVE_NAME, reserve_space
from ventifs.tree.versions.catalog import versions


def old(root: Path) -> None:
    """Take from a store what older programs did not know."""
    write_header(root, replace(read_header(root), read_only_compatible=0, reserve=0), Files())
    (root / RESERVE_NAME).unlink()
    (root / "lock").chmod(0o644)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An old store, `s`, with a version of a small tree."""
    plain_tree(tmp_path / "tree")
    run(tmp_path, "init", "--store", "s")
    run(tmp_path, "archive", "tree", "--name", "t", "--store", "s")
    old(tmp_path / "s")
    return tmp_path


def test_each_thing_is_named_and_done_once(home: Path) -> None:
    size = f"{64 << 10:,}"
    said = [
        "modes: 1 file or directory has another mode than the store's kind, first lock: 0644 where "
        "0600 is expected",
        f"reserve: the reserve has 0 bytes where {size} are wanted",
        "header: the header lacks the feature reclaimed",
    ]
    done = run(home, "upgrade", "--dry-run", "--store", "s").stdout.decode().splitlines()
    assert done == [
        *(f"would correct: {line}" for line in said),
        "a dry run: 3 things would be corrected",
    ]
    done = run(home, "upgrade", "--store", "s").stdout.decode().splitlines()
    assert done == [*(f"corrected: {line}" for line in said), f"{home / 's'}: up to date"]
    for options in ([], ["--dry-run"]):
        done = run(home, "upgrade", "--store", "s", *options).stdout.decode().splitlines()
        assert done == [f"{home / 's'}: nothing to do"]
    run(home, "check", "--read-data", "--store", "s")
    run(home, "archive", "tree", "--name", "t", "--store", "s")


def test_json_has_the_same(home: Path) -> None:
    for options, features in ((["--dry-run"], []), ([], ["reclaimed"])):
        facts = parsed(home, "upgrade", "--store", "s", *options)
        assert [each["step"] for each in facts["corrected"]] == ["modes", "reserve", "header"]
        assert (facts["left"], facts["dry_run"]) == ([], bool(options))
        assert facts["features"] == features
    facts = parsed(home, "upgrade", "--store", "s")
    assert (facts["corrected"], facts["left"]) == ([], [])


def test_what_is_no_store_or_in_use_is_refused_in_one_line(home: Path) -> None:
    said = run(home, "upgrade", "--store", "tree", expected=1).stderr
    assert b"not a ventifs store" in said
    before = (home / "s" / "ventifs.store").read_bytes()
    with Store.open(home / "s", "write"):
        [line] = run(home, "upgrade", "--store", "s", expected=1).stderr.splitlines()
    assert b"the store is in use: another ventifs is writing to it" in line
    assert (home / "s" / "ventifs.store").read_bytes() == before


@pytest.mark.parametrize("value", ["2TiB", "much"])
def test_a_reserve_that_is_no_size_is_refused(home: Path, value: str) -> None:
    for words in (["upgrade", "--store", "s"], ["init", "--store", "new"]):
        run(home, *words, "--reserve", value, expected=2)
    assert not (home / "new").exists()


def test_the_environment_sets_the_reserve_of_new_stores(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VENTIFS_RESERVE", "100KiB")
    run(home, "init", "--store", "new")
    run(home, "init", "--store", "given", "--reserve", "0")
    run(home, "archive", "tree", "--name", "t")
    assert read_header(home / "new").reserve == 100 << 10
    assert read_header(home / "given").reserve == 0
    assert read_header(home / "data" / "ventifs").reserve == 100 << 10
    monkeypatch.setenv("VENTIFS_RESERVE", "much")
    said = run(home, "init", "--store", "newer", expected=2).stderr
    assert b"VENTIFS_RESERVE" in said
    assert not (home / "newer").exists()


CALLED = """
import importlib, signal
from ventifs.cli.main import main
owner = importlib.import_module("ventifs.store.upgrade")
call = getattr(owner, NAME)
def signalling(*arguments, **options):
    if AFTER:
        call(*arguments, **options)
    signal.raise_signal(signal.SIGINT)
    return call(*arguments, **options)
setattr(owner, NAME, signalling)
main()
"""


@pytest.mark.parametrize("name", ["correct", "replenish", "write_header"])
@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_loses_nothing_and_the_next_finishes(home: Path, name: str, after: bool) -> None:
    program = CALLED.replace("NAME", repr(name)).replace("AFTER", str(after))
    if name == "replenish":
        program = program.replace('"ventifs.store.upgrade"', '"ventifs.store.reserve"')
    done = subprocess.run(
        [sys.executable, "-c", program, "upgrade", "--store", "s"],
        cwd=home,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr == b"ventifs: interrupted; nothing committed was lost\n"
    features = read_header(home / "s").features
    assert features == (["reclaimed"] if name == "write_header" and after else [])
    run(home, "upgrade", "--store", "s")
    assert run(home, "upgrade", "--store", "s").stdout.endswith(b"nothing to do\n")
    run(home, "check", "--read-data", "--store", "s")


# --- a full disk --------------------------------------------------------------------------------


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    with ExitStack() as stack:
        how = mounted if request.param == "tmpfs" else mounted_ext4
        yield stack.enter_context(how(tmp_path / "disk"))


def with_versions(home: Path, disk: Disk, size: str) -> Path:
    """A store with versions of two names, whose last archive run filled its disk."""
    store = disk.path / "s"
    said = run(home, "init", "--store", store, "--reserve", size).stdout
    assert b"no room" not in said
    (home / "tree").mkdir()
    for number in range(12):
        (home / "tree" / "file").write_bytes(noise(100_000, number))
        name = "last" if number == 0 else "web"
        run(home, "archive", "tree", "--name", name, "--store", store)
    disk.fill()
    for number in range(8):
        (home / "tree" / f"more{number}").write_bytes(noise(2_000_000, 100 + number))
    space = reserve_space(store)
    said = run(home, "archive", "tree", "--name", "web", "--store", store, expected=1).stderr
    assert b"no space left on device; nothing committed was lost: make room" in said
    assert reserve_space(store) == space, "an archive run used the reserve"
    disk.fill()
    return store


@pytest.mark.slow
def test_versions_are_forgotten_on_a_full_disk(tmp_path: Path, disk: Disk) -> None:
    store = with_versions(tmp_path, disk, "600KiB")
    for _ in range(8):
        run(tmp_path, "forget", "web@~2", "--store", store)
    run(tmp_path, "forget", "last@latest", "--force", "--store", store)
    done = parsed(tmp_path, "forget", "--keep-last", "1", "--store", store)
    assert len(done["forgotten"]) == 2
    left = parsed(tmp_path, "versions", "--store", store)
    assert [version["name"] for version in left] == ["web"]
    assert reserve_space(store) > 200 << 10
    assert b"no errors" in run(tmp_path, "check", "--read-data", "--store", store).stdout
    disk.make_room()
    run(tmp_path, "archive", "tree", "--name", "web", "--store", store)
    assert reserve_space(store) >= 600 << 10


@pytest.mark.slow
def test_versions_are_forgotten_on_a_full_btrfs(tmp_path: Path) -> None:
    """A file system that copies on write: no process is killed for what it has mapped."""
    with mounted_btrfs(tmp_path / "disk") as disk:
        store = with_versions(tmp_path, disk, "2MiB")
        run(tmp_path, "forget", "web@~2", "--store", store)
        assert len(parsed(tmp_path, "versions", "web", "--store", store)) == 10
        assert b"no errors" in run(tmp_path, "check", "--read-data", "--store", store).stdout


@pytest.mark.slow
def test_without_a_reserve_the_advice_helps(tmp_path: Path, disk: Disk) -> None:
    store = with_versions(tmp_path, disk, "0")
    with Store.open(store) as opened:
        before = versions(opened)
    for _ in range(10):  # there may be room left in pages that are allocated already
        done = subprocess.run(
            [SCRIPT, "forget", "web@~1", "--store", store],
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if done.returncode:
            break
    assert done.returncode == 1
    assert b"the store has no reserve left; some MB are room enough" in done.stderr
    disk.make_room()
    command = done.stderr.split(b"'ventifs ")[1].split(b"'")[0].decode()
    words = [word.replace("64MiB", "1MiB") for word in shlex.split(command)]
    run(tmp_path, *words, "--store", store)
    assert reserve_space(store) >= 1 << 20
    disk.fill()
    run(tmp_path, "forget", "web@~1", "--store", store)
    with Store.open(store) as opened:
        assert {str(left) for left in versions(opened)} < set(map(str, before))

"""Leases: the bytes, locks that end with their process, sweeping, forks, and users without any."""

import errno
import fcntl
import gc
import logging
import os
import re
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import pytest

from tests.support import processes
from tests.support.leasing import files, hold_leases
from tests.support.modes import GROUP, KINDS, masked, wrong
from tests.support.processes import Peer
from tests.support.tiny import tiny_store
from tests.support.vectors import load_vectors, unhex
from ventifs.errors import VentifsError
from ventifs.store import Store, lease_file, leases, permissions
from ventifs.store.lease_file import FILE_MAX, ROOT_MAX
from ventifs.store.leases import leased, sweep

VECTOR = load_vectors("store/leases.json")
ROOTS: list[bytes] = unhex(VECTOR["roots"])
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
STALE = "0" * 32 + ".lease"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_store(tmp_path / "store")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own are closed to them."""
    with TemporaryDirectory(dir="/tmp", prefix="ventifs-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def locked(path: Path, data: bytes) -> int:
    """Write a lease file as another process would; the descriptor holds its lock."""
    path.write_bytes(data)
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def content(root: Path) -> bytes:
    [name] = files(root)
    return (root / "leases" / name).read_bytes()


# --- bytes ---------------------------------------------------------------------------------------


def test_the_bytes_of_a_lease_file(root: Path) -> None:
    with Store.open(root) as store:
        held = [store.lease(each) for each in ROOTS[:3]]
        held[1].release()
        assert content(root).hex() == VECTOR["hex"]
        assert leased(root) == unhex(VECTOR["leased"])


@pytest.mark.parametrize("more", ["", VECTOR["half_written_hex"]])
def test_a_lease_file_is_read(root: Path, more: str) -> None:
    fd = locked(root / "leases" / STALE, bytes.fromhex(VECTOR["hex"] + more))
    assert leased(root) == unhex(VECTOR["leased"])
    os.close(fd)
    assert leased(root) == []


def test_however_it_is_cut_short_what_is_whole_counts(root: Path) -> None:
    data, [first, third] = bytes.fromhex(VECTOR["hex"]), unhex(VECTOR["leased"])
    ends = {first: data.index(first) + len(first), third: data.index(third) + len(third)}
    for length in range(len(data) + 1):
        fd = locked(root / "leases" / STALE, data[:length])
        assert leased(root) == [each for each in (first, third) if ends[each] <= length], length
        os.close(fd)


def test_no_damage_makes_another_root_of_one(root: Path) -> None:
    data = bytes.fromhex(VECTOR["hex"])
    for at in range(len(data)):
        for flip in (1, 255):
            damaged = bytearray(data)
            damaged[at] ^= flip
            fd = locked(root / "leases" / STALE, bytes(damaged))
            # The second was released, and is whole: its state is all that differs.
            assert set(leased(root)) <= set(ROOTS[:3]), at
            os.close(fd)


def test_slots_are_used_again(root: Path) -> None:
    with Store.open(root) as store:
        stays = store.lease(b"stays")
        for number in range(1000):
            store.lease(b"%d" % number).release()
        assert len(content(root)) == 8 + 2 * (25 + 64)
        assert leased(root) == [b"stays"]
        stays.release()
        assert content(root) == b"vflease\1"


def test_a_root_may_be_as_long_as_a_record(root: Path) -> None:
    roots = [b"x" * ROOT_MAX, b"y"]
    with Store.open(root) as store:
        held = store.lease(*roots)
        assert leased(root) == roots
        assert held.roots == tuple(roots)


# --- what ends a lease ---------------------------------------------------------------------------


def test_a_lease_ends_with_the_last_that_holds_it(root: Path) -> None:
    with Store.open(root) as store, Store.open(root) as other:
        first, second, third = store.lease(b"a"), store.lease(b"a"), other.lease(b"a", b"b")
        assert sorted(leased(root)) == [b"a", b"b"]
        assert len(files(root)) == 1
        first.release()
        first.release()
        del second
        assert sorted(leased(root)) == [b"a", b"b"]
        third.release()
        assert leased(root) == []


def test_closing_a_store_ends_its_leases_and_no_others(root: Path) -> None:
    with Store.open(root) as store:
        with Store.open(root) as other:
            mine, theirs = store.lease(b"mine", b"both"), other.lease(b"theirs", b"both")
            assert sorted(leased(root)) == [b"both", b"mine", b"theirs"]
        assert sorted(leased(root)) == [b"both", b"mine"]
        theirs.release()  # as its owner does later
        assert sorted(leased(root)) == [b"both", b"mine"]
    assert files(root) == []
    mine.release()


def test_a_confirmed_root_is_confirmed_until_nothing_holds_it(root: Path) -> None:
    with Store.open(root) as store:
        first = store.lease(b"a")
        assert not first.confirmed
        assert not store.lease(b"a").confirmed
        first.confirm()
        second = store.lease(b"a")
        assert second.confirmed
        assert not store.lease(b"a", b"b").confirmed
        first.release()
        assert store.lease(b"a").confirmed
        second.release()
        assert not store.lease(b"a").confirmed


def test_the_garbage_collector_may_end_a_lease_at_any_moment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may run in the thread that holds the lock, which must neither hang nor lose anything."""
    write = lease_file._write

    def collecting(fd: int, data: bytes, at: int) -> None:
        gc.collect()
        write(fd, data, at)

    monkeypatch.setattr(lease_file, "_write", collecting)
    with Store.open(root) as store:
        cycle: list[object] = [store.lease(b"in a cycle")]
        cycle.append(cycle)
        del cycle
        held = store.lease(b"kept")
        assert leased(root) == [b"kept"]
        assert held.roots == (b"kept",)


def test_threads_take_and_release_side_by_side(root: Path) -> None:
    with Store.open(root) as store:
        kept = []

        def work(number: int) -> None:
            for turn in range(200):
                kept.append(store.lease(b"kept %d" % number))
                store.lease(b"%d %d" % (number, turn), b"shared").release()

        threads = [Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(leased(root)) == [b"kept %d" % number for number in range(4)]
        kept.clear()
        assert leased(root) == []


# --- processes -----------------------------------------------------------------------------------


def test_a_lease_is_seen_by_others_and_ends_with_its_process(root: Path) -> None:
    first, second = Peer(hold_leases, root), Peer(hold_leases, root)
    assert first.ask("take", b"a", b"both") == 2
    assert second.ask("take", b"b", b"both") == 2
    assert sorted(leased(root)) == [b"a", b"b", b"both"]
    assert sorted(second.ask("leased")) == [b"a", b"b", b"both"]  # type: ignore[call-overload]
    assert len(files(root)) == 2
    first.kill()
    assert sorted(leased(root)) == [b"b", b"both"]
    assert len(files(root)) == 2  # the killed one's is left
    second.end()
    assert leased(root) == []
    assert len(files(root)) == 1


def test_what_a_killed_process_left_is_swept_by_writers(root: Path) -> None:
    stays, killed = Peer(hold_leases, root), Peer(hold_leases, root)
    stays.ask("take", b"stays")
    [live] = files(root)
    killed.ask("take", b"killed")
    killed.kill()
    Store.open(root, "write").close()
    assert files(root) == [live]
    assert leased(root) == [b"stays"]
    stays.end()


def test_what_a_killed_process_left_is_swept_with_the_next_lease(root: Path) -> None:
    (root / "leases" / STALE).write_bytes(bytes.fromhex(VECTOR["hex"]))
    (root / "leases" / "notes.txt").write_text("an administrator's")
    with Store.open(root) as store:
        assert STALE in files(root)
        held = store.lease(b"a")
        assert STALE not in files(root)
        assert leased(root) == list(held.roots)
    assert files(root) == ["notes.txt"]


@pytest.mark.parametrize("by", ["the parent's end", "a kill"])
def test_a_forked_child_keeps_no_lease(root: Path, by: str) -> None:
    peer = Peer(hold_leases, root)
    peer.ask("take", b"a")
    child = peer.ask("fork")
    assert isinstance(child, int)
    try:
        assert leased(root) == [b"a"]
        if by == "a kill":
            peer.kill()
        else:
            peer.end()
        assert leased(root) == []
    finally:
        processes.kill_stranger(child)


def test_a_forked_child_takes_leases_of_its_own_and_leaves_the_parents(root: Path) -> None:
    with Store.open(root) as store:
        held = store.lease(b"parent's")
        [name] = files(root)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                held.release()
                store._leases.close()
                theirs = leases.Leases(root, store.place)
                taken = theirs.take(b"child's")
                assert sorted(leased(root)) == [b"child's", b"parent's"]
                assert len(files(root)) == 2
                assert taken.roots
                theirs.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert files(root) == [name]
        assert leased(root) == [b"parent's"]


def test_no_program_that_is_run_inherits_a_lease(root: Path) -> None:
    with Store.open(root) as store:
        store.lease(b"a")
        child = subprocess.Popen(["sh", "-c", "echo; read x"], stdin=-1, stdout=-1, close_fds=False)
        assert child.stdout is not None
        child.stdout.readline()
        opened = [os.readlink(each) for each in Path(f"/proc/{child.pid}/fd").iterdir()]
        child.communicate(b"\n")
    assert not any("lease" in each for each in opened)


# --- crash states and races ----------------------------------------------------------------------


def test_a_file_that_was_made_and_never_locked_counts_for_nothing(root: Path) -> None:
    """A process was killed between the two."""
    for name, data in ((STALE, b""), ("1" * 32 + ".lease", b"vfle")):
        (root / "leases" / name).write_bytes(data)
    assert leased(root) == []
    sweep(root)
    assert files(root) == []


def test_a_new_file_that_is_swept_before_it_is_locked_is_made_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    create = permissions.create_file

    def swept(path: Path) -> int:
        fd = create(path)
        made.append(path.name)
        if len(made) < 3:
            sweep(root)
        return fd

    monkeypatch.setattr(lease_file, "create_file", swept)
    with Store.open(root) as store:
        held = store.lease(b"a")
        assert files(root) == [made[2]]
        assert leased(root) == list(held.roots) == [b"a"]


def test_a_new_file_that_is_being_swept_is_left_for_another(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeper has locked it, and has not removed it yet."""
    sweepers: list[int] = []
    create = permissions.create_file

    def locked_first(path: Path) -> int:
        fd = create(path)
        if not sweepers:
            sweepers.append(os.open(path, os.O_RDONLY))
            fcntl.flock(sweepers[0], fcntl.LOCK_EX)
        return fd

    monkeypatch.setattr(lease_file, "create_file", locked_first)
    with Store.open(root) as store:
        held = store.lease(b"a")
        assert len(files(root)) == 1
        assert leased(root) == list(held.roots) == [b"a"]
    os.close(sweepers[0])


def test_a_live_file_is_never_swept(root: Path) -> None:
    with Store.open(root) as store:
        held = store.lease(b"a")
        sweep(root)
        Store.open(root, "write").close()
        assert leased(root) == list(held.roots) == [b"a"]


@pytest.mark.parametrize("fails_at", [0, 10])
def test_a_slot_that_cannot_be_written_leaves_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    write = lease_file._write

    def full(fd: int, data: bytes, at: int) -> None:
        os.pwrite(fd, data[:fails_at], at)
        raise OSError(errno.ENOSPC, "full")

    leases._said.clear()
    with Store.open(root) as store:
        first, gone = store.lease(b"first"), store.lease(b"gone")
        gone.release()
        monkeypatch.setattr(lease_file, "_write", full)
        for name in (b"into a free slot", b"at the end, as it is too long for that" * 3):
            assert store.lease(name).roots == ()
        assert leased(root) == [b"first"]
        monkeypatch.setattr(lease_file, "_write", write)
        more = [store.lease(b"%d" % number * 50) for number in range(4)]
        assert len(more) == 4
        assert leased(root) == [b"first", *(b"%d" % number * 50 for number in range(4))]
        assert first.roots
    [line] = [each.getMessage() for each in caplog.records]
    assert line.startswith(f"{root}/leases: no space left on device: there is no lease")


def test_a_store_in_the_place_of_a_removed_one_has_its_own_leases(tmp_path: Path) -> None:
    """The directory is the same one, and so is its number."""
    root = tiny_store(tmp_path / "store")
    with Store.open(root) as store:
        before = store.lease(b"before")
        [name] = files(root)
        (root / "leases" / name).unlink()
        (root / "leases").rmdir()
        with Store.open(root) as second:
            after = second.lease(b"after")
            assert leased(root) == list(after.roots) == [b"after"]
        assert files(root) == []
        before.release()


# --- what else may lie there ---------------------------------------------------------------------


def test_what_is_no_lease_file_counts_for_nothing(root: Path) -> None:
    directory = root / "leases"
    (directory / ("a" * 32 + ".lease")).symlink_to("/etc/passwd")
    os.mkfifo(directory / ("b" * 32 + ".lease"))
    (directory / ("c" * 32 + ".lease")).mkdir()
    descriptors = [
        locked(directory / name, bytes.fromhex(VECTOR["hex"]))
        for name in ("d" * 31 + ".lease", "D" * 32 + ".lease", "readme")
    ]
    descriptors += [
        locked(directory / (f"{number:032x}.lease"), data)
        for number, data in enumerate([b"", b"vflease\2" + bytes(100), os.urandom(5000)])
    ]
    assert leased(root) == []
    for each in descriptors:
        os.close(each)
    sweep(root)
    assert len(files(root)) == 5  # all but the FIFO
    assert Path("/etc/passwd").exists()


def test_a_huge_file_is_refused_by_name(root: Path) -> None:
    path = root / "leases" / STALE
    fd = locked(path, b"vflease\1")
    os.ftruncate(fd, FILE_MAX + 1)
    with pytest.raises(VentifsError, match=f"{STALE}: 268,435,457 bytes, more than"):
        leased(root)
    os.close(fd)
    assert leased(root) == []


def test_slots_that_claim_more_than_they_have_cost_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[bytes] = []
    copied: list[int] = []

    class Watched(bytes):
        def __getitem__(self, key: Any) -> Any:
            piece = super().__getitem__(key)
            copied.append(len(piece))
            return piece

    slots = [(0, 1), (0, 2**32 - 1), (64, 65), (2**31, 1000), (2**32 - 1, ROOT_MAX + 1)]
    monkeypatch.setattr(lease_file, "_check", lambda at, root: hashed.append(root))
    for capacity, length in slots:
        slot = struct.pack("<IBI16s", capacity, 1, length, b"")
        assert list(lease_file._roots_in(Watched(b"vflease\1" + slot + bytes(500)))) == []
    assert (hashed, copied) == ([], [])


def test_what_cannot_be_known_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = locked(root / "leases" / STALE, bytes.fromhex(VECTOR["hex"]))

    def failing(*_: object) -> bytes:
        raise OSError(errno.EIO, "damaged")

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(VentifsError, match=f"{STALE}: input/output error"):
        leased(root)
    os.close(fd)


# --- other stores, other users -------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["private", pytest.param("shared", marks=as_root), pytest.param("readers", marks=as_root)],
)
def test_an_older_store_gets_its_directory(tmp_path: Path, kind: str) -> None:
    root = tiny_store(tmp_path / "store", access=KINDS[kind])
    (root / "leases").rmdir()
    assert leased(root) == []
    sweep(root)
    with Store.open(root) as store:
        held = store.lease(b"a")
        assert leased(root) == list(held.roots) == [b"a"]
    (root / "leases").rmdir()
    Store.open(root, "write").close()
    assert wrong(root, kind) == {}
    assert files(root) == []


@as_root
@pytest.mark.parametrize("kind", KINDS)
def test_a_lease_file_has_the_mode_of_its_kind(home: Path, kind: str) -> None:
    root = tiny_store(home / "store", access=KINDS[kind])
    with masked(0o077), Store.open(root) as store:
        held = store.lease(b"a")
        assert held.roots
        assert wrong(root, kind) == {}


def user_says(root: Path, uid: int, gid: int) -> tuple[int, str]:
    """As another user, take a lease in a process that is killed; how many roots, and the log."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        text = "it did not even begin"
        try:
            os.setgroups([gid])
            os.setgid(gid)
            os.setuid(uid)
            leases._said.clear()
            lines: list[str] = []
            handler = logging.Handler(logging.WARNING)
            handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
            logging.getLogger("ventifs.store").addHandler(handler)
            taken = leases.Leases(root, (0, 0))
            held = [taken.take(b"%d" % uid), taken.take(b"more")]
            text = f"{sum(len(each.roots) for each in held)} " + "\n".join(lines)
        except BaseException as error:
            text = repr(error)
        finally:
            os.write(write, text.encode())
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as file:
        count, _, lines_ = file.read().partition(" ")
    return int(count), lines_


@as_root
@pytest.mark.parametrize("kind", ["shared", "readers"])
def test_every_member_of_the_group_has_leases_and_sweeps_those_of_others(
    home: Path, kind: str
) -> None:
    root = tiny_store(home / "store", access=KINDS[kind])
    os.chown(root, 2001, GROUP)
    os.chown(root / "leases", 2001, GROUP)
    for uid in (2002, 2003, 2001):
        assert user_says(root, uid, GROUP) == (2, "")
        [name] = files(root)
        assert (root / "leases" / name).stat().st_uid == uid


@as_root
def test_a_user_that_cannot_write_has_no_leases_and_is_warned_once(home: Path) -> None:
    root = tiny_store(home / "store", access=KINDS["readers"])
    (root / "leases").chmod(0o2750)
    count, line = user_says(root, 2002, GROUP)
    assert count == 0
    assert files(root) == []
    said = re.fullmatch(
        f"{root}/leases: permission denied: there is no lease on what is read, so it can be "
        "reclaimed meanwhile if it is forgotten; leases is closed to the store's group; root opens "
        "it with '(.*)'",
        line,
    )
    assert said is not None, line
    subprocess.run(["sh", "-c", said[1]], check=True)
    assert wrong(root, "readers") == {}
    assert user_says(root, 2002, GROUP) == (2, "")


@as_root
def test_a_user_that_cannot_make_the_directory_of_an_older_store_is_not_warned(home: Path) -> None:
    root = tiny_store(home / "store", access=KINDS["readers"])
    (root / "leases").rmdir()
    assert user_says(root, 2002, GROUP) == (0, "")
    assert not (root / "leases").exists()


def _mounting(program: str, root: Path) -> None:
    """Run a shell program, with rights to mount, in a mount namespace of its own."""
    subprocess.run(["unshare", "--mount", "sh", "-ec", program, "-", root], check=True)


@as_root
def test_a_read_only_mount_is_read_without_leases(home: Path) -> None:
    root = tiny_store(home / "store")
    with Store.open(root, "write") as store:
        store.commit([(b"key", b"")])
    before = sorted(root.rglob("*"))
    program = home / "program.py"
    program.write_text(
        "import logging, sys; from pathlib import Path; from ventifs.store import Store\n"
        "logging.basicConfig(level=int(sys.argv[2]), format='%(levelname)s %(message)s')\n"
        "with Store.open(Path(sys.argv[1])) as store:\n"
        "    assert store.lease(b'a').roots == () and store.records()\n"
    )
    mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd / && '
    python = Path(__file__).parents[2] / ".venv/bin/python"
    for level, said in ((logging.WARNING, ""), (logging.INFO, "INFO ")):
        run = f"PYTHONPATH={Path(__file__).parents[2]} {python} {program} $1 {level} 2>{home}/said"
        _mounting(mount + run, root)
        told = (home / "said").read_text()
        assert told.startswith(said)
        assert told.count("\n") == bool(said)
        assert not said or "read-only file system: there is no lease" in told
    assert sorted(root.rglob("*")) == before

"""Open live files and directories: bytes, holes, appending, the disk, and listings."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.support.clock import Clock
from tests.support.limits import file_size_limit
from tests.support.live import AS_ROOT, NAME, Guest, Live, live_export, needs_root
from tests.support.locking import READ, WRITE
from tests.support.talking import Talk
from ventifs.buffer import FileRange, joined
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.session.limits import SessionLimits
from ventifs.vfs.interface import LOCK_SUCCESS, Blocking, Cold, Lock
from ventifs.vfs.live.leftovers import KEPT_MAX
from ventifs.vfs.live.opened import OFFSET_MAX, SENT_MIN, WRITE_INLINE_MAX, LiveOpened
from ventifs.vfs.live.tree import SLOW_S

MIB = 1 << 20


def _says_what_it_has() -> bool:
    """Whether the file system of tests can say that a read needs no disk."""
    with tempfile.TemporaryFile() as file:
        file.write(b"1")
        file.flush()
        try:
            return os.preadv(file.fileno(), (bytearray(1),), 0, os.RWF_NOWAIT) == 1
        except OSError:
            return False


needs_nowait = pytest.mark.skipif(not _says_what_it_has(), reason="no RWF_NOWAIT here")


@pytest.fixture
def live() -> Iterator[Live]:
    with live_export() as live:
        yield live


@pytest.fixture
def guest(live: Live) -> Guest:
    return live.attach()


def test_reading_and_writing_anywhere(guest: Guest) -> None:
    _, opened = guest.create("file")
    assert guest.run(opened.write, 5, b"56789") == 5
    assert guest.run(opened.write, 0, memoryview(b"01234")) == 5
    assert guest.read(opened) == b"0123456789"
    assert guest.read(opened, 3, 4) == b"3456"
    assert guest.read(opened, 8, 100) == b"89"
    assert guest.read(opened, 10, 100) == b""
    assert guest.read(opened, 1 << 40, 100) == b""
    assert guest.run(opened.write, 0, b"") == 0
    assert guest.read(opened, 0, 0) == b""
    opened.close()


@pytest.mark.parametrize("count", [1, 4096, 65_536, 65_537, MIB, 16 * MIB])
@pytest.mark.parametrize("size", [0, 1, 4095, 65_536, MIB + 1])
def test_counts_and_sizes(live: Live, guest: Guest, size: int, count: int) -> None:
    data = os.urandom(size)
    (live.path / "file").write_bytes(data)
    opened = guest.open("file")
    assert guest.read(opened, 0, count) == data[:count]
    middle = size // 2
    assert guest.read(opened, middle, count) == data[middle : middle + count]
    opened.close()


def _sends(live: Live, guest: Guest, name: str, count: int = MIB) -> bool:
    """Whether a read of a file gives a range of it."""
    opened = guest.open(name)
    try:
        pieces = guest.run(opened.read, 0, count)
        assert joined(pieces) == (live.path / name).read_bytes()[:count]
        return any(isinstance(piece, FileRange) for piece in pieces)
    finally:
        opened.close()


@needs_nowait
def test_what_is_in_memory_is_sent_from_there(live: Live, guest: Guest) -> None:
    guest.put("file", os.urandom(SENT_MIN + 1))
    assert _sends(live, guest, "file")
    assert _sends(live, guest, "file", SENT_MIN)
    assert not _sends(live, guest, "file", SENT_MIN - 1)
    opened = guest.open("file")
    assert guest.run(opened.read, 2, MIB) == [(live.path / "file").read_bytes()[2:]]
    [piece] = guest.run(opened.read, 1, MIB)
    assert isinstance(piece, FileRange)
    assert len(piece) == SENT_MIN
    guest.set(opened, size=2)
    opened.close()
    assert joined([piece]) == (live.path / "file").read_bytes()[1:].ljust(SENT_MIN, b"\0")


@needs_nowait
def test_what_is_not_in_memory_is_not(live: Live, guest: Guest) -> None:
    with (live.path / "file").open("wb") as file:
        file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert not _sends(live, guest, "file")
    assert _sends(live, guest, "file")


@needs_nowait
def test_what_cannot_be_read_is_an_error_and_no_range(
    live: Live, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel also keeps pages that it could not read: a reply must not have begun by then."""
    guest.put("file", os.urandom(MIB))
    real = os.preadv

    def preadv(fd: int, buffers: tuple[Any], offset: int, flags: int = 0) -> int:
        if offset + len(buffers[0]) > 200_000:
            raise OSError(errno.EIO, "a bad sector")
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", preadv)
    opened = guest.open("file")
    assert isinstance(guest.run(opened.read, 0, 200_000)[0], FileRange)
    assert guest.refused(opened.read, 1, 200_000) == errno.EIO
    opened.close()


def test_what_is_open_for_one_thing_does_not_do_the_other(guest: Guest) -> None:
    guest.put("file", b"1")
    reads, writes = guest.open("file", os.O_RDONLY), guest.open("file", os.O_WRONLY)
    assert guest.refused(reads.write, 0, b"2") == errno.EBADF
    for offset in (0, OFFSET_MAX):
        assert guest.refused(writes.read, offset, 1) == errno.EBADF
    assert guest.refused(reads.entries, 0) == errno.ENOTDIR
    assert guest.refused(reads.listed, b"x") == errno.ENOTDIR
    reads.close()
    writes.close()
    for call in (lambda: reads.read(0, 1), lambda: writes.write(0, b"1"), reads.attributes):
        assert guest.refused(call) == errno.EBADF
    reads.close()  # once more: nothing happens


def test_holes_and_the_largest_offsets(live: Live, guest: Guest) -> None:
    file, opened = guest.create("sparse")
    assert guest.run(opened.write, 1 << 40, b"end") == 3
    found = guest.stat(opened)
    assert (found.size, found.blocks) == ((1 << 40) + 3, os.stat(live.path / "sparse").st_blocks)
    assert 0 < found.blocks * 512 < MIB
    assert guest.read(opened, (1 << 40) - 5, 100) == b"\0" * 5 + b"end"
    assert guest.read(opened, 1 << 30, 70_000) == bytes(70_000)
    guest.set(opened, size=1 << 42)
    assert guest.stat(file).size == 1 << 42
    assert guest.read(opened, OFFSET_MAX - MIB, MIB) == b""
    for offset in (OFFSET_MAX - 1, OFFSET_MAX):
        assert guest.refused(opened.read, offset, 2) == errno.EINVAL
        number = guest.refused(opened.write, offset, b"22")
        assert number in (errno.EFBIG, errno.EINVAL)
    assert guest.refused(guest.set, opened, size=OFFSET_MAX) in (errno.EFBIG, errno.EINVAL)
    opened.close()


def test_appending(guest: Guest) -> None:
    guest.put("log", b"1")
    one, two = (guest.open("log", os.O_WRONLY | os.O_APPEND) for _ in range(2))
    for each, data in ((one, b"2"), (two, b"3"), (one, b"4")):
        assert guest.run(each.write, 0, data) == 1
    assert guest.content("log") == b"1234"
    _, new = guest.create("new", flags=os.O_RDWR | os.O_APPEND)
    guest.run(new.write, 0, b"a")
    guest.run(new.write, 0, b"b")
    assert guest.read(new) == b"ab"
    for each in (one, two, new):
        each.close()


@pytest.fixture
def alone() -> Iterator[Live]:
    with live_export(sharing="exclusive") as live:
        yield live


def test_an_exclusive_client_appends_by_itself(alone: Live) -> None:
    guest = alone.attach()
    guest.put("log", b"1234")
    opened = guest.open("log", os.O_RDWR | os.O_APPEND)
    guest.run(opened.write, 0, b"whole page")  # as a client before Linux 6.4 writes back
    assert guest.content("log") == b"whole page"
    opened.close()


@pytest.mark.parametrize("how", ["open", "create"])
def test_truncating_by_opening(guest: Guest, how: str) -> None:
    guest.put("file", b"1234")
    flags = os.O_RDWR | os.O_TRUNC
    opened = guest.open("file", flags) if how == "open" else guest.create("file", flags=flags)[1]
    assert guest.stat(opened).size == 0
    opened.close()


def test_directories_are_opened_to_be_listed(guest: Guest) -> None:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
        assert guest.refused(guest.root.open, flags) == errno.EISDIR
    listing = guest.open(guest.root, os.O_RDONLY | os.O_DIRECTORY)
    assert guest.refused(listing.read, 0, 1) == errno.EISDIR
    assert guest.refused(listing.write, 0, b"1") == errno.EBADF
    guest.run(listing.fsync, data_only=False)
    listing.close()
    guest.put("file")
    assert guest.refused(guest.at("file").open, os.O_RDONLY | os.O_DIRECTORY) == errno.ENOTDIR


@pytest.mark.parametrize("data_only", [False, True])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_the_disk_is_a_thread_s_business(guest: Guest, data_only: bool, flags: int) -> None:
    guest.put("file", b"1")
    opened = guest.open("file", flags)
    with pytest.raises(Blocking) as blocking:
        opened.fsync(data_only=data_only)
    called: list[int] = []
    name = "fdatasync" if data_only else "fsync"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, called.append)
        blocking.value.work()
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in called] == [
        os.fspath(guest.live.path / "file")
    ]
    guest.run(opened.fsync, data_only=data_only)
    opened.close()


def test_large_writes_are_a_thread_s_business(guest: Guest) -> None:
    _, opened = guest.create("file")
    opened.write(0, bytes(WRITE_INLINE_MAX))
    with pytest.raises(Blocking):
        opened.write(0, bytes(WRITE_INLINE_MAX + 1))
    data = os.urandom(3 * MIB)
    assert guest.run(opened.write, 7, data) == len(data)
    assert guest.read(opened, 7, 4 * MIB) == data
    opened.close()


# Reads that need the disk


def test_what_is_in_memory_is_read_at_once(live: Live, guest: Guest) -> None:
    guest.put("file", b"12345")
    opened = guest.open("file")
    guest.read(opened)
    before = live.threaded
    assert guest.read(opened) == b"12345"
    assert live.threaded == before
    opened.close()


@pytest.fixture
def copied() -> Iterator[Guest]:
    with live_export(sends=False) as live:
        yield live.attach()


@pytest.mark.parametrize("cached", [0, 10_000, 65_536, 200_000])
def test_what_is_partly_in_memory_is_read_whole(
    copied: Guest, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reads what it has, and refuses the rest: then a thread reads all of it."""
    data = os.urandom(200_000)
    copied.put("file", data)
    real = os.preadv

    def preadv(fd: int, buffers: tuple[bytearray], offset: int, flags: int = 0) -> int:
        if not flags:
            return real(fd, buffers, offset)
        if offset >= cached and offset < len(data):
            raise BlockingIOError(errno.EAGAIN, "not cached")
        whole = memoryview(buffers[0])
        return real(fd, (whole[: max(cached - offset, 0)],), offset)

    monkeypatch.setattr(os, "preadv", preadv)
    opened = copied.open("file")
    assert copied.read(opened, 0, 300_000) == data
    assert copied.read(opened, 5_000, 60_000) == data[5_000:65_000]
    if cached < len(data):
        with pytest.raises(Cold) as cold:
            opened.read(0, 200_000)
        assert cold.value.load.key is None
    opened.close()


@pytest.mark.parametrize("slow", [False, True])
def test_a_file_system_that_cannot_tell_is_read_by_threads_if_it_is_slow(
    monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    """As tmpfs and overlayfs, which do not know RWF_NOWAIT."""
    real, tried = os.preadv, []

    def preadv(fd: int, buffers: tuple[bytearray], offset: int, flags: int = 0) -> int:
        tried.append(flags)
        if flags:
            raise OSError(errno.EOPNOTSUPP, "no")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with live_export(clock=Clock(step_s=2 * SLOW_S if slow else 0.0)) as live:
        guest = live.attach()
        guest.put("file", b"12345")
        opened = guest.open("file")
        live.tree.pace._threaded = 0
        before = live.threaded
        for _ in range(3):
            assert guest.read(opened) == b"12345"
        assert tried.count(os.RWF_NOWAIT) == 1
        assert live.threaded - before == (2 if slow else 0)  # the first one was slow
        opened.close()
        del opened


def test_a_file_that_is_clunked_while_a_thread_reads(guest: Guest) -> None:
    guest.put("file", b"12345")
    opened = guest.open("file")
    guest.live.tree.nowait = False
    guest.live.all_in_threads()
    with pytest.raises(Cold) as cold:
        opened.read(0, 100)
    opened.close()
    others = [guest.open("file") for _ in range(3)]  # would get its number, were it free
    assert bytes(cold.value.load.run()[0]) == b"12345"
    for each in others:
        each.close()


# Full disks


@pytest.fixture
def full() -> Iterator[Live]:
    """An export of a file system that holds 1 MiB."""
    with live_export() as outer:
        place = outer.path / "small"
        place.mkdir()
        options = "size=1m,nr_inodes=20,mode=777"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)
        try:
            with live_export(place) as live:
                yield live
        finally:
            subprocess.run(["umount", place], check=True)


@needs_root
def test_a_full_disk(full: Live) -> None:
    guest = full.attach(1000)
    _, opened = guest.create("file")
    count = guest.run(opened.write, 0, bytes(2 * MIB))
    assert 0 < count <= MIB  # what there was room for
    assert guest.refused(opened.write, count, bytes(4096)) == errno.ENOSPC
    assert guest.read(opened, 0, 4096) == bytes(4096)
    guest.set(opened, size=0)
    assert guest.run(opened.write, 0, b"1") == 1
    opened.close()
    left = os.statvfs(full.path).f_ffree
    for number in range(left):
        guest.put(f"{number}")
    for call in (guest.put, guest.mkdir):
        assert guest.refused(call, "one more") == errno.ENOSPC
    assert len(guest.names()) == left + 1


def test_a_file_that_would_be_too_large(guest: Guest) -> None:
    _, opened = guest.create("file")
    with file_size_limit(MIB):
        assert guest.run(opened.write, MIB - 10, bytes(100)) == 10
        assert guest.refused(opened.write, MIB, b"1") == errno.EFBIG
    opened.close()


# Listings


def test_listing(live: Live, guest: Guest) -> None:
    for name in ("a", "b", "c"):
        guest.put(name)
    guest.mkdir("d")
    listing = guest.open(guest.root)
    found = {name: (identity, kind) for _, name, identity, kind in listing.entries(0)}
    assert set(found) == {b".", b"..", b"a", b"b", b"c", b"d"}
    for each in (b"a", b"d"):
        file = guest.at(each)
        assert found[each][1] == file.kind
        assert found[each][0].number == file.identity.number
        assert found[each][0].kind == file.identity.kind
    assert found[b"."][0].number == found[b".."][0].number == guest.root.identity.number
    assert guest.run(listing.listed, b"a").identity == guest.at("a").identity
    assert guest.refused(listing.listed, b"none") == errno.ENOENT
    listing.close()
    below = guest.open("d")
    entries = {name: identity.number for _, name, identity, _ in below.entries(0)}
    assert entries == {
        b".": guest.at("d").identity.number,
        b"..": guest.root.identity.number,
    }
    below.close()


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("most", [1, 3, 500])
def test_a_listing_in_parts(live: Live, guest: Guest, most: int, threads: bool) -> None:
    count = {1: 60, 3: 600, 500: 3000}[most]
    for number in range(count):
        (live.path / f"file-{number:04}-{'x' * (number % 50)}").touch()
    if threads:
        live.all_in_threads()
    opened, cookie, names = guest.open(guest.root), 0, []
    while some := guest.some_entries(opened, cookie, most):
        names += [name for _, name, _ in some]
        cookie = some[-1][0]
    assert len(names) == len(set(names)) == count + 2
    assert guest.some_entries(opened, cookie, most) == []  # again
    again = guest.entries(opened, 0)
    assert [name for _, name, _ in again] == names
    for at in (1, 7, count // 2):  # from any cookie, with others between
        assert guest.entries(opened, again[at][0]) == again[at + 1 :]
    opened.close()


def test_a_listing_is_read_anew_from_its_beginning(guest: Guest) -> None:
    guest.put("a")
    listing = guest.open(guest.root)
    some = guest.some_entries(listing, 0, 1)
    guest.put("b")
    assert {name for _, name, _ in guest.entries(listing)} == {b".", b"..", b"a", b"b"}
    guest.unlink("a")
    assert {name for _, name, _ in guest.entries(listing)} == {b".", b"..", b"b"}
    assert len(some) == 1
    listing.close()


@pytest.mark.parametrize("part", [1, 37, 512])
def test_what_is_removed_while_it_is_listed_leaves_nothing(
    live: Live, guest: Guest, part: int
) -> None:
    """As `rm -rf` does: cookies survive the deletion of what they came with."""
    count = 200 if part == 1 else 5000
    for number in range(count):
        (live.path / f"{number}").touch()
    opened, cookie, removed = guest.open(guest.root), 0, 0
    while some := guest.some_entries(opened, cookie, part):
        cookie = some[-1][0]
        for _, name, _ in some:
            if name not in (b".", b".."):
                guest.run(guest.root.unlink, name, directory=False)
                removed += 1
    opened.close()
    assert removed == count
    assert os.listdir(live.path) == []


def test_many_listings_at_once_keep_little(live: Live, guest: Guest) -> None:
    for number in range(300):
        (live.path / f"{number}").touch()
    listings = [guest.open(guest.root) for _ in range(3 * KEPT_MAX)]
    cookies = [0] * len(listings)
    found: list[list[bytes]] = [[] for _ in listings]
    for _ in range(1000):
        more = False
        for at, listing in enumerate(listings):
            some = guest.some_entries(listing, cookies[at], 100)
            found[at] += [name for _, name, _ in some]
            if some:
                cookies[at], more = some[-1][0], True
        assert len(live.tree.leftovers) <= KEPT_MAX
        if not more:
            break
    assert all(len(names) == len(set(names)) == 302 for names in found)
    for listing in listings:
        listing.close()
    assert len(live.tree.leftovers) == 0


def test_cookies_that_nobody_gave(guest: Guest) -> None:
    guest.put("a")
    listing = guest.open(guest.root)
    for cookie in (1 << 63, (1 << 64) - 1):
        assert guest.refused(guest.entries, listing, cookie) == errno.EINVAL
    for cookie in (1, 12345, OFFSET_MAX - 1):
        guest.entries(listing, cookie)  # ends, whatever it gives
    listing.close()


def test_a_directory_that_is_gone_lists_nothing(live: Live, guest: Guest) -> None:
    guest.mkdir("d")
    listing = guest.open("d")
    guest.unlink("d", directory=True)
    with suppress(FileNotFoundError):  # which is the kernel's own answer
        assert guest.entries(listing) == []
    listing.close()


def test_a_listing_of_an_unreadable_directory(live: Live, guest: Guest) -> None:
    if AS_ROOT:
        live.path.chmod(0o711)
        guest = live.attach(1000)
    else:
        live.path.chmod(0o311)
    assert guest.refused(guest.root.open, os.O_RDONLY) == errno.EACCES
    live.path.chmod(0o755)


# Locks


def _executes(live: Live) -> bool:
    """Whether the host can execute the file `true`, which it cannot while it is being written."""
    return subprocess.run([live.path / "true"], check=False).returncode == 0


def test_a_read_only_export_gives_no_write_locks() -> None:
    with live_export(writable=False) as live:
        shutil.copy(shutil.which("true") or "", live.path / "true")
        guest = live.attach()
        opened = guest.open("true")
        assert guest.refused(opened.lock, Lock(WRITE, 0, 0, 1, b"guest"), 0) == errno.EROFS
        assert guest.run(opened.lock, Lock(READ, 0, 0, 1, b"guest"), 0) == LOCK_SUCCESS
        assert _executes(live)
        opened.close()
        del opened


@needs_root
def test_who_may_not_write_a_file_gets_no_write_lock_of_it(live: Live) -> None:
    shutil.copy(shutil.which("true") or "", live.path / "true")
    (live.path / "own").touch()
    os.chown(live.path / "own", 1000, 1000)
    live.path.chmod(0o777)
    guest, lock = live.attach(1000), Lock(WRITE, 0, 0, 1, b"guest")
    opened = guest.open("true")
    assert guest.refused(opened.lock, lock, 0) == errno.EACCES
    assert _executes(live)
    opened.close()
    for opened in guest.open("own"), guest.create("new", 0o444)[1]:
        assert guest.run(opened.lock, lock, 0) == LOCK_SUCCESS
        opened.close()


# What threads have read


@pytest.mark.parametrize("end", ["", "flush", "version"])
def test_what_threads_have_read_and_nobody_takes_is_limited(
    live: Live, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A client that does not read its replies must not fill the memory with a sparse file."""
    (live.path / "sparse").touch()
    os.truncate(live.path / "sparse", 1 << 40)
    monkeypatch.setattr(LiveOpened, "_read_now", lambda *_: None)
    limits = SessionLimits(in_flight_bytes_max=1 << 16)
    talk = Talk(live.directory.view("none").session(), attach=False, limits=limits)
    uid = 0 if AS_ROOT else os.geteuid()
    talk.ask(
        m.Tattach(0, m.NOFID, b"", NAME, uid), m.Twalk(0, 1, (b"sparse",)), m.Tlopen(1, os.O_RDONLY)
    )
    reads = [(tag, m.Tread(1, tag * 8000, 8000)) for tag in range(200)]
    assert talk.send(*reads) == []
    assert talk.session.in_flight == -(-(1 << 16) // 8000)
    assert not talk.session.hungry
    if not end:
        assert len(talk.work()) == 200
    elif end == "flush":
        talk.session.receive(talk.frames(*[(1000 + tag, m.Tflush(tag)) for tag, _ in reads]))
        talk.work()
    else:
        talk.session.receive(talk.frames((m.NOTAG, m.Tversion(8192, b"9P2000.L"))))
        talk.work()
    assert talk.session.hungry
    assert talk.session._flight.results == 0


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC, errno.EIO, errno.EROFS])
def test_what_a_disk_refuses_is_passed_on(
    guest: Guest, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotas too, which not every kernel here has."""
    file = guest.put("file", b"1")
    opened = guest.open("file", os.O_RDWR)
    root = guest.root
    real = os.open

    def refuses(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    def creates(path: bytes, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        return refuses() if flags & os.O_CREAT else real(path, flags, *rest, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        for name in ("pwrite", "mkdir", "symlink", "mknod", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, refuses)
        for name in ("fsync", "fdatasync", "setxattr", "ftruncate", "truncate", "chmod"):
            patch.setattr(os, name, refuses)
        patch.setattr(os, "open", creates)
        refused = [
            guest.refused(opened.write, 0, b"2"),
            guest.refused(opened.write, 0, bytes(1 << 20)),
            guest.refused(opened.fsync, data_only=True),
            guest.refused(opened.fsync, data_only=False),
            guest.refused(guest.create, "new"),
            guest.refused(guest.mkdir, "new"),
            guest.refused(root.symlink, b"new", b"x", 0),
            guest.refused(root.mknod, b"new", 0o10600, 0, 0),
            guest.refused(root.renameat, b"file", root, b"new"),
            guest.refused(root.unlink, b"file", directory=False),
            guest.refused(root.unlink, b"file", directory=True),
            guest.refused(file.set_xattr, b"user.a", b"1", 0),
            guest.refused(guest.set, file, size=0),
            guest.refused(guest.set, opened, size=0),
            guest.refused(guest.set, file, mode=0),
        ]
    assert refused == [number] * len(refused)
    opened.close()
    assert guest.names() == [b"file"]
    assert guest.content("file") == b"1"

"""Pins: their number is bounded, and what was evicted is found again, or is ESTALE."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_IFIFO
from typing import Any

import pytest

from tests.support import processes
from tests.support.live import Guest, Live, descriptors, live_export, needs_root
from tests.support.sizes import LONG
from ventifs.vfs.interface import Opened, Refused
from ventifs.vfs.live.actor import OneUser
from ventifs.vfs.live.descriptors import PINS_MAX, Descriptor, Pins, pins_allowed
from ventifs.vfs.live.marks import handle_in
from ventifs.vfs.live.tree import LiveTree


@pytest.fixture(params=["as root", "as a user", "without handles"])
def live(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """An export with two pins, by each of the ways in which files are found again."""
    options: dict[str, Any] = {}
    if request.param != "as root":
        options["acting"] = OneUser()
    elif os.geteuid():
        pytest.skip("only root may open files by their handles")
    if request.param == "without handles":
        monkeypatch.setattr(LiveTree, "_has_handles", lambda tree: False)
    with live_export(pins_max=2, **options) as live:
        yield live


@pytest.fixture
def guest(live: Live) -> Guest:
    return live.attach()


def evict_all(guest: Guest) -> None:
    """Let others take the place of all pins."""
    names = [f"evicting-{number}" for number in range(4)]  # the hand passes all others twice
    for name in names:
        if not (guest.live.path / name).exists():
            (guest.live.path / name).touch()
    held = [guest.at(name) for name in names]
    assert len(guest.live.tree.pins) == 2
    assert sum(file.pin is not None for file in held) == 2


def test_what_was_evicted_is_found_again(live: Live, guest: Guest) -> None:
    for path in ("a", "a/b", "a/b/c"):
        guest.mkdir(path)
    file = guest.put("a/b/c/file", b"content")
    directory = guest.at("a/b/c")
    identity = file.identity
    evict_all(guest)
    assert file.pin is None
    assert directory.pin is None
    assert file.identity == identity
    assert file.name == b"file"
    assert guest.content(file) == b"content"
    evict_all(guest)
    guest.run(directory.mkdir, b"new", 0o700, 0)
    evict_all(guest)
    assert guest.names(directory) == [b"file", b"new"]
    evict_all(guest)
    guest.set(file, mode=0o600)
    evict_all(guest)
    assert guest.stat(file).mode & 0o777 == 0o600
    assert live.tree.pins.evictions >= 8


@pytest.mark.parametrize("by", ["guest", "host"])
def test_another_file_of_the_name_is_never_taken(live: Live, guest: Guest, by: str) -> None:
    for _ in range(20):  # mostly with the same inode number
        file = guest.put("file", b"1")
        evict_all(guest)
        assert file.pin is None
        if by == "guest":
            guest.unlink("file")
            guest.put("file", b"another")
        else:
            (live.path / "file").unlink()
            (live.path / "file").write_bytes(b"another")
        for call in (file.attributes, lambda at=file: at.open(os.O_RDONLY), file.statfs):
            assert guest.refused(call) == errno.ESTALE
        assert guest.content("file") == b"another"
        guest.unlink("file")


def test_a_removed_file_is_stale(live: Live, guest: Guest) -> None:
    guest.mkdir("d")
    file, directory = guest.put("d/file"), guest.at("d")
    evict_all(guest)
    (live.path / "d/file").unlink()
    (live.path / "d").rmdir()
    for each in (file, directory):
        assert guest.refused(each.attributes) == errno.ESTALE
        assert guest.refused(each.remove) == errno.ESTALE
    assert guest.refused(directory.walk, b"file") == errno.ESTALE
    assert guest.refused(directory.create, b"x", os.O_RDWR, 0o600, 0) == errno.ESTALE


def test_a_moved_file_is_found_by_its_handle_alone(live: Live, guest: Guest) -> None:
    guest.mkdir("d")
    file = guest.put("d/file", b"1")
    evict_all(guest)
    (live.path / "d/file").rename(live.path / "moved")
    if live.tree._mount is not None:
        assert guest.content(file) == b"1"
    else:
        assert guest.refused(file.attributes) == errno.ESTALE


def test_what_is_open_or_has_no_name_is_not_evicted(live: Live, guest: Guest) -> None:
    files = [guest.put(f"open-{number}", b"%d" % number) for number in range(5)]
    opened = [guest.open(file, os.O_RDWR) for file in files]
    nameless = [guest.put(f"gone-{number}", b"gone") for number in range(1)]
    guest.unlink("gone-0")
    for _ in range(3):
        evict_all(guest)
    assert all(file.pin is not None for file in (*files, *nameless))
    for number in range(5):
        guest.unlink(f"open-{number}")
    for number, each in enumerate(opened):
        assert guest.read(each) == b"%d" % number
        assert guest.stat(files[number]).nlink == 0
    assert guest.content(nameless[0]) == b"gone"
    for each in opened:
        each.close()
    evict_all(guest)
    assert guest.content(files[0]) == b"0"


def test_a_created_file_is_evicted_when_it_is_closed(live: Live, guest: Guest) -> None:
    file, opened = guest.create("file")
    evict_all(guest)
    assert file.pin is not None
    opened.close()
    evict_all(guest)
    assert file.pin is None
    assert guest.stat(file).size == 0


def test_roots_stay(live: Live, guest: Guest) -> None:
    guest.mkdir("d")
    inner = live.attach(path=b"d")
    listing = inner.open(inner.root)
    listing.close()
    evict_all(guest)
    roots: list[Any] = [guest.root, inner.root]
    assert all(root.pin is not None for root in roots)
    guest.rename("d", "moved")
    assert inner.names() == []


def test_finding_again_is_a_thread_s_business_when_the_disk_is_slow(
    live: Live, guest: Guest
) -> None:
    file = guest.put("file", b"1")
    evict_all(guest)
    live.all_in_threads()
    before = live.threaded
    assert guest.stat(file).size == 1
    assert live.threaded == before + 1


def test_a_disk_that_fails_is_not_taken_for_a_missing_file(
    live: Live, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = guest.put("file", b"1")
    evict_all(guest)

    def broken(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr("ventifs.vfs.live.tree.open_handle", broken)
        patch.setattr("ventifs.vfs.live.tree.open_beneath", broken)
        assert guest.refused(file.attributes) == errno.EIO
    assert guest.stat(file).size == 1


def test_a_file_system_that_knows_neither_handles_nor_births_evicts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LiveTree, "_has_handles", lambda tree: False)
    with live_export(pins_max=2) as live:
        live.tree._births = False
        guest = live.attach()
        files = [guest.put(f"{number}", b"1") for number in range(9)]
        assert all(file.pin is not None for file in files)
        assert live.tree.pins.evictions == 0
        files.clear()


# Limits


@contextmanager
def descriptors_limit(count: int) -> Iterator[None]:
    """Let this process have `count` descriptors more than now, at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("limit", "pins"), [(1024, 512), (10, 16), (1 << 20, PINS_MAX)])
def test_pins_are_half_of_the_limit(limit: int, pins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert pins_allowed() == pins
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert pins_allowed() == PINS_MAX


@pytest.fixture
def wide() -> Iterator[Live]:
    with live_export(pins_max=10_000) as live:
        yield live


def test_pins_give_way_to_open_files(wide: Live) -> None:
    guest = wide.attach()
    with descriptors_limit(60):
        files = [guest.put(f"{number}", b"%d" % number) for number in range(200)]
        assert guest.names() == sorted(b"%d" % number for number in range(200))
        opened: list[Opened] = []
        with pytest.raises((OSError, Refused), match=r"(?i)too many open files") as full:
            for file in files:
                opened.append(guest.open(file))
        assert isinstance(full.value, OSError | Refused)
        assert full.value.errno == errno.EMFILE
        assert len(opened) > 10
        for each in opened:
            each.close()
        assert [guest.content(file) for file in files] == [b"%d" % at for at in range(200)]


def test_finding_all_names_with_few_descriptors() -> None:
    """As find(1) does, with a fid for each directory on the way and one for each file."""
    assert processes.run(find_all) == 0


def find_all() -> None:
    """In a process with 256 descriptors: walk to each of many files, and hold them all."""
    count = 1_000_000 if LONG else 5_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    with live_export() as live:
        for number in range(count):
            if number % 1000 == 0:
                directory = live.path / f"d{number // 1000}"
                directory.mkdir()
                top = os.open(directory, os.O_RDONLY)
            os.mknod(f"{number}", dir_fd=top)
            if number % 1000 == 999:
                os.close(top)
        guest = live.attach()
        held, seen = [], set()
        for name in guest.names():
            directory_file = guest.at(name)
            held.append(directory_file)
            for inner in guest.names(directory_file):
                file = guest.run(directory_file.walk, inner)
                assert guest.stat(file).nlink == 1
                held.append(file)
                seen.add(inner)
        assert seen == {b"%d" % number for number in range(count)}
        assert len(descriptors()) < 200
        for file in held[:: 1 + count // 500]:
            assert guest.stat(file).nlink >= 1  # found again
        held.clear()
        del file, directory_file


def test_a_handle_is_made_once(live: Live, guest: Guest) -> None:
    file = guest.put("file")
    evict_all(guest)
    handle = handle_in(file.mark)
    guest.stat(file)
    evict_all(guest)
    assert handle_in(file.mark) == handle
    assert bool(handle) == live.tree._handles


def test_nothing_is_left_open_when_a_client_goes(wide: Live) -> None:
    before = descriptors()
    guest = wide.attach()
    for number in range(20):
        guest.mkdir(f"d{number}")
        guest.put(f"d{number}/file", b"1")
    held = [guest.at(f"d{number}/file") for number in range(20)]
    opened = [guest.open(file) for file in held]
    listings = [guest.open(f"d{number}") for number in range(20)]
    assert len(descriptors()) >= len(before) + 80
    for each in (*opened, *listings):
        each.close()
    opened.clear()
    listings.clear()
    held.clear()
    del each
    assert descriptors() == before


@needs_root
def test_files_are_found_as_the_server(live: Live) -> None:
    """A user that may not search a directory any more goes on with what it holds there."""
    live.path.chmod(0o777)
    alice = live.attach(1000)
    alice.mkdir("d", 0o777)
    file = alice.put("d/file", b"1", 0o666)
    os.chmod(live.path / "d", 0)
    os.chown(live.path / "d", 0, 0)
    evict_all(alice)
    assert alice.content(file) == b"1"
    if live.tree.acting.switches:
        assert alice.refused(alice.at("d").walk, b"file") == errno.EACCES


# The clock's hand


class Evictable:
    """A file that lets its pin go."""

    def __init__(self, pins: Pins) -> None:
        self.pin: Descriptor | None = Descriptor(os.open("/", os.O_PATH))
        pins.keep(self, self.pin)

    def evict(self) -> bool:
        self.pin = None
        return True

    def lose(self) -> bool:
        raise AssertionError("it can be found again")


def pinned(files: list[Evictable]) -> list[int]:
    return [number for number, file in enumerate(files) if file.pin is not None]


def test_what_was_used_since_the_hand_came_by_stays() -> None:
    pins = Pins(8)
    files = [Evictable(pins) for _ in range(9)]  # all were used, so that all marks are cleared
    left = pinned(files)
    assert len(left) == len(pins) == 8
    assert left[-1] == 8  # the new one is spared
    used = [files[number] for number in left[::2]]
    for _ in range(3):
        for file in used:
            assert file.pin is not None
            file.pin.used = True
        files.append(Evictable(pins))
    assert all(file.pin is not None for file in used)
    assert pins.evictions == 4


def test_an_eviction_looks_at_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ventifs.vfs.live.descriptors._LOOKED_AT_MAX", 3)
    pins = Pins(8)
    files = [Evictable(pins) for _ in range(9)]
    assert pins.evictions == 1
    assert [file.pin.used for file in files if file.pin is not None].count(False) == 2


def test_one_pin_that_is_allowed_is_the_newest() -> None:
    pins = Pins(1)
    files = [Evictable(pins) for _ in range(5)]
    assert pinned(files) == [4]
    files.clear()


def test_what_is_held_is_not_counted() -> None:
    pins = Pins(2)
    files = [Evictable(pins) for _ in range(2)]
    for file in files:
        assert file.pin is not None
        assert pins.hold(file, file.pin)
        assert pins.hold(file, file.pin)
    assert len(pins) == 0
    more = [Evictable(pins) for _ in range(3)]
    assert pinned(files) == [0, 1]
    assert len(pinned(more)) == 2
    for file in files:
        assert file.pin is not None
        pins.release(file, file.pin)
        assert len(pins) == 2
    first = files[0]
    assert first.pin is not None
    pins.release(first, first.pin)
    assert len(pins) == 2
    last = Evictable(pins)
    assert len(pins) == 2
    assert last.pin is not None
    stale = Descriptor(os.dup(last.pin.fd))
    assert not pins.hold(last, stale)


def _lowest() -> int:
    """The number that the next descriptor gets."""
    fd = os.dup(0)
    os.close(fd)
    return fd


@pytest.mark.parametrize("how", ["open", "create", "list", "nameless"])
def test_clients_do_not_get_the_last_descriptors(live: Live, guest: Guest, how: str) -> None:
    """Else a new connection, and a user's account, could not be had: look-ups would find none."""
    guest.put("file", b"1")
    live.tree.pins.numbers_max = _lowest() + 20
    kept: list[Any] = []

    def one_more() -> None:
        if how == "open":
            kept.append(guest.open("file"))
        elif how == "list":
            kept.append(guest.open(guest.root))
        else:
            kept.append(guest.create("new")[1])
            guest.rename("new", f"new-{len(kept)}")
            if how == "nameless":
                guest.unlink(f"new-{len(kept)}")

    with pytest.raises((OSError, Refused), match="open files"):
        for _ in range(100):
            one_more()
    assert 5 <= len(kept) <= 21
    assert _lowest() <= live.tree.pins.numbers_max + 1
    for _ in range(2):
        kept.pop().close()
    assert b"file" in guest.names()
    while kept:
        kept.pop().close()
    one_more()
    kept.pop().close()


@pytest.mark.parametrize("how", ["mkdir", "symlink", "mknod"])
def test_without_room_for_its_descriptor_nothing_is_made(
    live: Live, guest: Guest, how: str
) -> None:
    guest.put("file", b"1")
    live.tree.pins.numbers_max = _lowest() + 60
    kept = opened_until_refused(guest, "open")
    while live.tree.pins.makes_room(OSError(errno.EMFILE, "so that nothing is left to evict")):
        pass
    taken = [os.dup(0) for _ in range(60)]  # as connections do
    make = getattr(guest.root, how)
    words = {"mkdir": (0o755, 0), "symlink": (b"target", 0), "mknod": (0o644 | S_IFIFO, 0, 0)}[how]
    try:
        assert guest.refused(make, b"made", *words) == errno.EMFILE
        assert not os.path.lexists(live.path / "made")
    finally:
        for fd in taken:
            os.close(fd)
    guest.run(make, b"made", *words)
    assert os.path.lexists(live.path / "made")
    for opened in kept:
        opened.close()


def opened_until_refused(guest: Guest, how: str) -> list[Any]:
    kept: list[Any] = []
    with pytest.raises(Refused, match="too many open files") as refused:
        while len(kept) < 200:
            if how == "create":
                kept.append(guest.create(f"{id(kept)}-{len(kept)}")[1])
            else:
                kept.append(guest.open("file" if how == "open" else guest.root))
    assert refused.value.errno == errno.EMFILE
    return kept


@pytest.mark.parametrize("how", ["open", "create", "list"])
def test_a_session_leaves_room_for_others(live: Live, guest: Guest, how: str) -> None:
    guest.put("file", b"1")
    most = live.tree.pins.numbers_max = _lowest() + 200
    held = []
    for sessions in (1, 2, 3):  # each gets half of what the others left
        held.append(opened_until_refused(live.attach(), how))
        assert len(held[-1]) in range(most // 2 ** (sessions + 1) - 1, most // 2**sessions)
    assert guest.content("file") == b"1"
    guest.put("more")
    for each in held:
        for opened in each:
            opened.close()
    assert live.tree.holds.left() == most
    for opened in opened_until_refused(guest, how):
        opened.close()


def test_a_session_loses_nameless_files_beyond_its_share(wide: Live) -> None:
    live, hostile, guest = wide, wide.attach(), wide.attach()
    guest.put("file", b"1")
    most = live.tree.pins.numbers_max = _lowest() + 100
    first = hostile.put("first", b"kept")
    hostile.unlink("first")
    files = [first, *(hostile.put(f"{number}") for number in range(80))]
    for number in range(80):
        hostile.unlink(f"{number}")
    live.tree.pins.pins_max = 10
    opened = guest.open("file")  # the hand comes by
    lost = [file for file in files if file.pin is None]
    assert lost
    assert {hostile.refused(file.attributes) for file in lost} == {errno.ESTALE}
    assert hostile.stat(first).nlink == 0
    opened.close()
    files.clear()
    lost.clear()
    del first
    assert live.tree.holds.left() == most

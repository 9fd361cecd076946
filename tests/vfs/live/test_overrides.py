"""What passes although the host refuses it, and how little more than that."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import AS_ROOT, NAME, USERS, Guest, Live, live_export, needs_root
from tests.support.privileges import open_directory
from tests.vfs.live.test_attributes import ACL, CAPABILITY
from ventifs.vfs.interface import NOW, AttributeChanges, User
from ventifs.vfs.live.descriptors import Descriptor
from ventifs.vfs.live.overrides import Writers, clear_set_ids

CAP = "security.capability"


def removal(guest: Guest, name: str = CAP) -> Callable[[], None]:
    """Removes an attribute, as Linux's client does."""
    return partial(guest.at("file").set_xattr, name.encode(), b"", os.XATTR_REPLACE)


@pytest.fixture
def live() -> Iterator[Live]:
    with live_export() as live:
        live.path.chmod(0o777)
        yield live


@pytest.fixture
def alice(live: Live) -> Guest:
    return live.attach(1000 if AS_ROOT else None)


def roots(live: Live, mode: int, name: str = "file", content: bytes = b"12345") -> Path:
    """A file of root's, or of the user that runs the tests."""
    path = live.path / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def attached(live: Live, uids: list[int], **options: Any) -> list[Guest]:
    """Attaches of one session."""
    session = live.directory.view(options.pop("squash", "none")).session()
    return [Guest(live, live.run(session.attach, User(b"", uid), NAME)) for uid in uids]


# A size, by another fid than the one that is open


def test_a_file_without_write_permission_is_resized_while_it_is_open(
    live: Live, alice: Guest
) -> None:
    file, opened = alice.create("file", 0o444)
    if AS_ROOT:
        assert alice.refused(alice.open, "file", os.O_WRONLY) == errno.EACCES
    alice.set("file", size=7)
    assert (live.path / "file").stat().st_size == 7
    reading = alice.open("file")
    alice.set(reading, size=5, mtime_ns=NOW)
    assert (live.path / "file").stat().st_size == 5
    reading.close()
    opened.close()
    if AS_ROOT:
        assert alice.refused(alice.set, "file", size=3) == errno.EACCES
    assert mode_of(live.path / "file") == 0o444
    del file


@needs_root
def test_a_permission_that_is_taken_away_counts_for_later_opens_alone(live: Live) -> None:
    path = roots(live, 0o666)
    bob = live.attach(1001)
    first, second = bob.open("file", os.O_WRONLY), bob.open("file", os.O_RDWR)
    path.chmod(0o600)
    for opened, size in ((first, 4), (second, 3)):
        bob.set("file", size=size, mtime_ns=NOW)
        assert path.stat().st_size == size
        opened.close()
    assert bob.refused(bob.set, "file", size=1) == errno.EACCES
    assert path.stat().st_size == 3


@needs_root
def test_open_for_reading_resizes_nothing(live: Live) -> None:
    path = roots(live, 0o644)
    bob = live.attach(1001)
    opened = bob.open("file")
    for at in ("file", opened):
        assert bob.refused(bob.set, at, size=1) == errno.EACCES
    opened.close()
    assert path.stat().st_size == 5


@needs_root
def test_what_another_user_or_session_has_open_resizes_nothing(live: Live) -> None:
    root, bob, again = attached(live, [0, 1001, 0])
    elsewhere = live.attach(1000)
    path = roots(live, 0o644)
    os.chown(path, 1000, 1000)
    opened = [root.open("file", os.O_RDWR), elsewhere.open("file", os.O_RDWR)]
    assert bob.refused(bob.set, "file", size=1) == errno.EACCES
    path.chmod(0o444)
    other = live.attach(1000)  # the owner, but in a session that has not opened it
    assert other.refused(other.set, "file", size=1) == errno.EACCES
    assert path.stat().st_size == 5
    for each in opened:
        each.close()
    assert again.root.access is root.root.access  # type: ignore[attr-defined]


@needs_root
def test_attaches_of_one_user_share_what_is_open(live: Live) -> None:
    one, two = attached(live, [1000, 1000])
    file, opened = one.create("file", 0o400)
    two.set("file", size=9)
    assert (live.path / "file").stat().st_size == 9
    opened.close()
    assert two.refused(two.set, "file", size=1) == errno.EACCES
    del file


def test_what_is_open_for_writing_is_forgotten(alice: Guest) -> None:
    writers = alice.root.access.writers  # type: ignore[attr-defined]
    file, first = alice.create("file")
    others = [alice.open(file, flags) for flags in (os.O_WRONLY, os.O_RDONLY, os.O_RDWR)]
    assert len(writers) == 3
    for opened in (first, *others):
        opened.close()
        opened.close()
    assert len(writers) == 0
    assert alice.refused(alice.open, "file", os.O_WRONLY | os.O_DIRECTORY) == errno.ENOTDIR
    assert len(writers) == 0


def test_writers_in_any_order() -> None:
    held = [Descriptor(os.open("/dev/null", os.O_WRONLY)) for _ in range(4)]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 0, 1, 3]):
        writers = Writers()
        for descriptor in held:
            writers.add(7, descriptor)
        writers.add(8, held[0])
        left = set(range(4))
        for index in order:
            found = writers.get(7)
            assert found in [held[each] for each in left]
            writers.discard(7, held[index])
            left.remove(index)
        assert writers.get(7) is None
        assert writers.get(8) is held[0]
        assert len(writers) == 1


# Set-id bits


@needs_root
@pytest.mark.parametrize(
    ("mode", "asked"),
    [(0o6777, 0o777), (0o4722, 0o722), (0o2777, 0o777), (0o6767, 0o2767), (0o1777, 0o1777)],
)
@pytest.mark.parametrize("squash", ["none", "all"])
def test_set_id_bits_are_cleared_before_a_write(
    live: Live, mode: int, asked: int, squash: str
) -> None:
    path = roots(live, mode)
    (bob,) = attached(live, [1001], squash=squash)
    bob.set("file", mode=asked)
    assert mode_of(path) == asked
    bob.set("file", mode=asked)  # another write came before
    assert (mode_of(path), path.stat().st_uid, path.read_bytes()) == (asked, 0, b"12345")
    path.chmod(mode)
    bob.set("file", mode=asked, size=3)
    assert (path.stat().st_size, mode_of(path) & ~stat.S_ISGID) == (3, asked & ~stat.S_ISGID)


@needs_root
@pytest.mark.parametrize(
    ("mode", "asked"),
    [
        (0o6777, 0o776),  # less than that
        (0o6777, 0o6777),  # nothing
        (0o6777, 0o4777),  # not all that a write clears
        (0o6777, 0o2777),
        (0o4777, 0o1777),  # something more
        (0o4766, 0o777),
        (0o777, 0o4777),
        (0o0777, 0o2777),
        (0o1777, 0o777),
        (0o6755, 0o755),  # the user may not write
        (0o0755, 0o755),
    ],
)
def test_no_other_mode_passes(live: Live, mode: int, asked: int) -> None:
    path = roots(live, mode)
    bob = live.attach(1001)
    assert bob.refused(bob.set, "file", mode=asked) == errno.EPERM
    assert mode_of(path) == mode


@needs_root
def test_directories_keep_their_modes(live: Live) -> None:
    (live.path / "d").mkdir()
    (live.path / "d").chmod(0o6777)
    bob = live.attach(1001)
    assert bob.refused(bob.set, "d", mode=0o777) == errno.EPERM
    assert mode_of(live.path / "d") == 0o6777


@needs_root
def test_a_mode_that_changes_meanwhile_is_not_undone(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the mode and the change, its owner takes everything from others."""
    path = roots(live, 0o6777)
    bob = live.attach(1001)
    fd = os.open(path, os.O_PATH)
    as_server = live.tree.acting.as_server

    def meanwhile() -> None:
        as_server()
        path.chmod(0o4700)

    access = bob.root.access  # type: ignore[attr-defined]
    access.act()
    with monkeypatch.context() as patch:
        patch.setattr(live.tree.acting, "as_server", meanwhile)
        clear_set_ids(access, fd, 0o777)
    as_server()
    os.close(fd)
    assert mode_of(path) == 0o700


@needs_root
def test_a_write_to_a_file_that_is_open_clears_them_too(live: Live) -> None:
    path = roots(live, 0o666)
    bob = live.attach(1001)
    opened = bob.open("file", os.O_RDWR)
    path.chmod(0o4644)
    bob.set("file", mode=0o644)
    assert mode_of(path) == 0o644
    opened.close()
    path.chmod(0o4644)
    assert bob.refused(bob.set, "file", mode=0o644) == errno.EPERM


# Times


@needs_root
@pytest.mark.parametrize("times", [{"mtime_ns": NOW}, {"atime_ns": NOW}])
def test_one_time_is_set_to_now_by_whoever_writes(live: Live, times: dict[str, int]) -> None:
    path = roots(live, 0o666)
    os.utime(path, ns=(5, 5))
    bob = live.attach(1001)
    bob.set("file", size=3, **times)
    found = path.stat()
    assert found.st_size == 3
    assert found.st_mtime_ns > 5  # also of the size
    assert (found.st_atime_ns > 5) == ("atime_ns" in times)
    for changes in ({"mtime_ns": 5}, {"mtime_ns": NOW, "atime_ns": 5}):
        assert bob.refused(bob.set, "file", **changes) == errno.EPERM
    path.chmod(0o644)
    assert bob.refused(bob.set, "file", **times) == errno.EPERM


# Capabilities


@needs_root
@pytest.mark.parametrize("fscaps", [True, False])
def test_a_capability_is_removed_by_whoever_writes(
    live: Live, monkeypatch: pytest.MonkeyPatch, fscaps: bool
) -> None:
    """Also by a server without CAP_SETFCAP, as one has with root squashed."""
    path = roots(live, 0o4777)
    os.setxattr(path, CAP, CAPABILITY)
    bob = live.attach(1001)
    if not fscaps:

        def removexattr(path: bytes, name: bytes) -> None:
            raise PermissionError(errno.EPERM, name)

        monkeypatch.setattr(os, "removexattr", removexattr)
    bob.run(removal(bob))
    assert CAP not in os.listxattr(path)
    assert mode_of(path) == (0o4777 if fscaps else 0o777)
    assert bob.refused(removal(bob)) == errno.ENODATA


@needs_root
def test_no_other_attribute_passes(live: Live) -> None:
    path = roots(live, 0o755)
    bob = live.attach(1001)
    for name in (CAP, "trusted.a", "security.a"):
        os.setxattr(path, name, CAPABILITY)
    writable = roots(live, 0o777, "writable")
    os.setxattr(writable, "trusted.a", b"1")
    os.setxattr(writable, "security.a", b"1")
    assert bob.refused(removal(bob)) == errno.EPERM
    other = bob.at("writable")
    for flags in (0, os.XATTR_CREATE, os.XATTR_REPLACE):
        assert bob.refused(other.set_xattr, CAP.encode(), CAPABILITY, flags) == errno.EPERM
    for name in ("trusted.a", "security.a"):
        assert bob.refused(other.set_xattr, name.encode(), b"", os.XATTR_REPLACE) == errno.EPERM
    assert set(os.listxattr(writable)) == {"trusted.a", "security.a"}
    assert CAP in os.listxattr(path)


# Execution


@needs_root
@pytest.mark.parametrize("squash", ["none", "all"])
@pytest.mark.parametrize("mode", [0o711, 0o4711, 0o701])
def test_what_may_be_executed_may_be_read(live: Live, mode: int, squash: str) -> None:
    path = roots(live, mode)
    (bob,) = attached(live, [1001], squash=squash)
    assert bob.content("file") == b"12345"
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC, os.O_WRONLY | os.O_TRUNC):
        assert bob.refused(bob.open, "file", flags) == errno.EACCES
    opened = bob.open("file")
    assert bob.refused(opened.write, 0, b"x") == errno.EBADF
    assert bob.refused(bob.set, opened, size=1) == errno.EACCES
    opened.close()
    assert (path.read_bytes(), mode_of(path)) == (b"12345", mode)


@needs_root
def test_execution_is_decided_as_the_user(live: Live) -> None:
    bob = live.attach(1001)
    path = roots(live, 0o710)
    assert bob.refused(bob.open, "file") == errno.EACCES
    os.chown(path, 0, 4002)  # of his groups
    assert bob.content("file") == b"12345"
    path.chmod(0o701)  # which now may not
    assert bob.refused(bob.open, "file") == errno.EACCES
    os.chown(path, 1001, 0)
    path.chmod(0o011)
    assert bob.refused(bob.open, "file") == errno.EACCES
    for mode in (0o640, 0o600, 0o666 & 0o620):
        os.chown(path, 0, 0)
        path.chmod(mode)
        assert bob.refused(bob.open, "file") == errno.EACCES
    listed = ACL.replace(bytes([2, 0, 4, 0]), bytes([2, 0, 1, 0])).replace(
        bytes([16, 0, 4, 0]), bytes([16, 0, 1, 0])
    )
    os.setxattr(path, "system.posix_acl_access", listed)
    assert bob.content("file") == b"12345"
    carol = live.attach(1002)
    assert carol.refused(carol.open, "file") == errno.EACCES


@needs_root
def test_directories_are_not_listed_by_who_may_search_them(live: Live) -> None:
    (live.path / "d").mkdir()
    (live.path / "d").chmod(0o711)
    bob = live.attach(1001)
    assert bob.refused(bob.open, "d") == errno.EACCES


@pytest.fixture
def unmounted() -> Iterator[Callable[[str], Path]]:
    with open_directory() as top:

        def mounted(options: str) -> Path:
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", top], check=True)
            return top

        try:
            yield mounted
        finally:
            subprocess.run(["umount", "-l", top], check=True)


@needs_root
def test_a_mount_without_execution_counts_for_the_host_alone(
    unmounted: Callable[[str], Path],
) -> None:
    path = unmounted("noexec,nosuid,nodev,mode=777,size=1m")
    with live_export(path) as live:
        bob, carol = live.attach(1001), live.attach(1002)
        made = roots(live, 0o711)
        assert bob.content("file") == b"12345"
        made.chmod(0o710)
        os.chown(made, 0, 4002)
        assert bob.content("file") == b"12345"
        assert carol.refused(carol.open, "file") == errno.EACCES
        made.chmod(0o600)
        assert bob.refused(bob.open, "file") == errno.EACCES


# What it costs


@needs_root
def test_what_the_host_permits_never_asks(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = live.attach(1000)
    asked: list[str] = []
    for name in ("permitted", "chown_empty"):
        monkeypatch.setattr(
            f"ventifs.vfs.live.overrides.{name}", lambda *_, name=name: asked.append(name)
        )
    file, opened = alice.create("file", 0o700)
    changes = AttributeChanges(size=3, mode=0o4700, mtime_ns=NOW)
    alice.run(file.setattr, changes)
    alice.run(opened.setattr, changes)
    alice.open(file).close()
    alice.run(file.set_xattr, b"user.a", b"1", 0)
    alice.run(file.set_xattr, b"user.a", b"", os.XATTR_REPLACE)
    opened.close()
    assert asked == []
    assert USERS[1000].uid == (live.path / "file").stat().st_uid

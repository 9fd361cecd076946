"""Only what is archived comes back, whatever the destination hands down or others put there."""

import multiprocessing
import os
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.forging import directory, file
from tests.support.patience import PATIENCE_S
from tests.support.stores import new_store
from tests.support.trees import ACL, archived, remove
from tests.support.walker import same
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import Empty, Entry, Inline, Special
from ventifs.tree.restore.metadata import dress_name
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.versions.catalog import find_version

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
DEFAULT = "system.posix_acl_default"


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "work").mkdir()
    yield tmp_path / "work"
    remove(tmp_path / "work")


def small_tree(root: Path) -> Path:
    (root / "sub" / "below").mkdir(parents=True)
    (root / "sub" / "below" / "file").write_bytes(b"1")
    os.mkfifo(root / "sub" / "fifo")
    return root


@pytest.mark.parametrize("overwrite", [False, True])
def test_default_acls_of_the_destination_are_not_inherited(
    store: Path, work: Path, overwrite: bool
) -> None:
    source = small_tree(work / "source")
    version, _ = archived(store, source)
    above = work / "above"
    above.mkdir()
    os.setxattr(above, DEFAULT, ACL)
    if overwrite:
        (above / "target").mkdir()  # inherits
    with Store.open(store) as opened:
        Restorer(opened, overwrite=overwrite).run(version.root, above / "target")
        for name in ("sub/below/file", "sub/fifo"):
            single = above / Path(name).name
            found = resolve(opened, version.root, name.encode())
            Restorer(opened, overwrite=overwrite).run(found, single)
            assert os.listxattr(single) == []
            assert single.stat().st_mode == (source / name).stat().st_mode
    same(source, above / "target")


def test_the_mode_goes_to_what_was_made_and_never_through_a_link(work: Path) -> None:
    """Where others may write, one may put a link in the place of what was just made."""
    victim = work / "victim"
    victim.write_bytes(b"")
    victim.chmod(0o600)
    entry = Entry(
        b"name", stat.S_IFIFO | 0o666, os.geteuid(), os.getegid(), 0, Special(), Empty(), b""
    )
    (work / "name").symlink_to(victim)
    fd = os.open(work, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Stale"):
            dress_name(entry, (), b"name", fd)
    finally:
        os.close(fd)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


@as_root
def test_an_owner_that_cannot_be_is_told(store: Path, work: Path) -> None:
    """To chown, the number of nobody at all means to leave the owner as it is."""
    for uid, gid in ((2**32 - 1, 5), (5, 2**32 - 1)):
        entry = Entry(
            b"", stat.S_IFREG | 0o4755, uid, gid, 0, file(b"a", Inline(b"1")).detail, Empty(), b""
        )
        target = work / f"{uid}"
        with Store.open(store) as opened:
            done = Restorer(opened).run(entry, target)
        assert done.left[0][1].startswith(f"owner {uid}:{gid}")
        assert target.stat().st_mode == stat.S_IFREG | 0o755


def test_names_whose_first_failed_are_still_names_of_one_file(store: Path, work: Path) -> None:
    """And never of what is in the way of the first."""
    one = b"1" * 16

    def linked(name: bytes) -> Entry:
        return Entry(
            name,
            stat.S_IFREG | 0o644,
            os.geteuid(),
            os.getegid(),
            0,
            file(b"a", Inline(b"archived")).detail,
            Empty(),
            one,
        )

    between = [file(b"b%04d" % number, Empty()) for number in range(600)]  # more than a batch
    (work / "target" / "a" / "in the way").mkdir(parents=True)
    with Store.open(store, "write") as opened:
        children = [linked(b"a"), *between, *map(linked, (b"c", b"d", b"e"))]
        done = Restorer(opened, overwrite=True).run(
            directory(opened, b"", children), work / "target"
        )
    assert [path for path, _ in done.failed] == [b"a"]
    assert done.left == [] or os.geteuid() != 0
    inodes = {(work / "target" / name).stat().st_ino for name in "cde"}
    assert len(inodes) == 1
    assert (work / "target" / "e").read_bytes() == b"archived"


def _links_out_of_closed_directories(store: Path, work: Path) -> None:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    with Store.open(store) as opened:
        done = Restorer(opened).run(find_version(opened, "t").root, work / "target")
    assert (done.left, done.failed) == ([], [])


@as_root
def test_a_user_gets_links_out_of_directories_that_are_closed_even_to_him() -> None:
    root = Path(tempfile.mkdtemp())
    try:
        new_store(root / "store")
        source = root / "source"
        for number in range(80):  # more than are held open
            (source / f"a{number:02}" / "b").mkdir(parents=True)
            (source / f"a{number:02}" / "b" / "file").write_bytes(b"%d" % number * 9)
        (source / "z").mkdir()
        for number in range(80):
            below = source / f"a{number:02}"
            os.link(below / "b" / "file", source / "z" / f"{number}")
            below.chmod(0o300 if number % 2 else 0)
            (below / "b").chmod(0)
        subprocess.run(["chown", "-R", "65534:65534", root], check=True)
        archived(root / "store", source)
        subprocess.run(["chown", "-R", "65534:65534", root], check=True)
        child = multiprocessing.get_context("forkserver").Process(
            target=_links_out_of_closed_directories, args=(root / "store", root)
        )
        child.start()
        child.join(PATIENCE_S)
        assert child.exitcode == 0
        same(source, root / "target")
    finally:
        remove(root)


def test_a_file_that_cannot_be_staged_is_told_by_its_own_name(store: Path) -> None:
    entry = file(b"a", Inline(b"1"))
    with Store.open(store) as opened, pytest.raises(VentifsError, match="/proc/ventifs-test"):
        Restorer(opened, overwrite=True).run(entry, Path("/proc/ventifs-test"))


@pytest.mark.parametrize("shut", ["default acl", "umask"])
@as_root
def test_a_user_is_not_kept_out_of_what_he_makes(shut: str) -> None:
    """By what new directories inherit, or by his own umask."""
    root = Path(tempfile.mkdtemp())
    try:
        new_store(root / "store")
        small_tree(root / "source")
        (root / "source" / "sub" / "file").write_bytes(b"1")
        (root / "source" / "sub" / "empty").mkdir()
        for name in ("sub/file", "sub", "sub/below"):
            os.setxattr(root / "source" / name, "user.a", b"b")
        above = root / "above"
        (above / "over").mkdir(parents=True)
        subprocess.run(["chown", "-R", "65534:65534", root], check=True)
        if shut == "default acl":
            shutting = ((1, 0, 2**32 - 1), (4, 5, 2**32 - 1), (32, 5, 2**32 - 1))
            os.setxattr(
                above,
                DEFAULT,
                struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in shutting),
            )
        archived(root / "store", root / "source")
        subprocess.run(["chown", "-R", "65534:65534", root / "store"], check=True)
        os.chmod(root, 0o711)
        for name, overwrite in (
            ("o", False),
            ("o", True),
            ("new/parents/o", False),
            ("over", True),
            ("", True),
        ):
            umask = 0o700 if shut == "umask" else 0o022
            assert processes.run(_restore_shut, root, name, overwrite, umask) == 0, name
            if name:
                same(root / "source", root / "above" / name)
    finally:
        remove(root)


def _restore_shut(root: Path, name: str, overwrite: bool, umask: int) -> None:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    with Store.open(root / "store") as opened:
        version = find_version(opened, "t").root
        os.umask(umask)
        done = Restorer(opened, overwrite=overwrite).run(version, root / "above" / name)
        assert (done.left, done.failed) == ([], [])
        if not overwrite:
            return
        single = root / "above" / "single"  # a file by itself, beside which all is shut
        done = Restorer(opened, overwrite=True).run(resolve(opened, version, b"sub/file"), single)
        assert (done.left, done.failed) == ([], [])
        assert os.getxattr(single, "user.a") == b"b"


def test_a_directory_that_is_refused_keeps_its_mode(store: Path, work: Path) -> None:
    version, _ = archived(store, small_tree(work / "source"))
    (work / "target" / "mine").mkdir(parents=True)
    (work / "target").chmod(0o050)
    with Store.open(store) as opened, pytest.raises(VentifsError, match="not empty"):
        Restorer(opened).run(version.root, work / "target")
    assert stat.S_IMODE((work / "target").stat().st_mode) == 0o050

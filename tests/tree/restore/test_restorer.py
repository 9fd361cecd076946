"""What is restored is what was archived, in everything, and nowhere else."""

import multiprocessing
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.stores import new_store
from tests.support.trees import archived, noise, odd_tree, plain_tree, remove
from tests.support.walker import look_at, same
from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.tree.objects.directory import build, resolve
from ventifs.tree.objects.records import (
    Block,
    Content,
    Detail,
    Directory,
    Empty,
    Entry,
    Inline,
    RegularFile,
    Symlink,
    encode,
)
from ventifs.tree.restore.metadata import xattrs_of
from ventifs.tree.restore.restored import Restored
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.versions.catalog import tree_score

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A directory for trees that pytest could not remove."""
    (tmp_path / "work").mkdir()
    yield tmp_path / "work"
    remove(tmp_path / "work")


def restored(store: Path, entry: Entry, target: Path) -> Restored:
    with Store.open(store) as opened:
        return Restorer(opened).run(entry, target)


def round_trip(store: Path, source: Path, target: Path) -> None:
    """Archive, restore, compare, archive again."""
    version, tally = archived(store, source, time_ns=1)
    assert version.troubles == ()
    done = restored(store, version.root, target)
    assert done.left == []
    assert done.entries == tally.entries == len(look_at(source))
    assert done.size == tally.bytes - sum(
        look.size * (len(look.group) - 1) / len(look.group)
        for look in look_at(source).values()
        if look.group
    )
    same(source, target)
    again, tally = archived(store, target, time_ns=2)
    assert tree_score(again.root) == tree_score(version.root)
    assert tally.new_bytes == 0


@as_root
def test_everything_odd_comes_back(store: Path, work: Path) -> None:
    round_trip(store, odd_tree(work / "source"), work / "target")


def test_what_a_user_can_make_comes_back(store: Path, work: Path) -> None:
    round_trip(store, plain_tree(work / "source"), work / "target")


def test_an_empty_directory_comes_back(store: Path, work: Path) -> None:
    (work / "source").mkdir(mode=0o711)
    round_trip(store, work / "source", work / "new" / "parents")


def test_a_new_directory_is_closed_until_it_is_whole(
    store: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "source").mkdir(mode=0o700)
    (work / "source" / "file").write_bytes(b"x")
    version, _ = archived(store, work / "source")
    modes: list[int] = []
    listed = os.scandir

    def looked(at: int | Path) -> object:
        if isinstance(at, int) and os.path.samestat(os.fstat(at), (work / "target").stat()):
            modes.append(stat.S_IMODE(os.fstat(at).st_mode))
        return listed(at)

    monkeypatch.setattr(os, "scandir", looked)
    before = os.umask(0)
    try:
        restored(store, version.root, work / "target")
    finally:
        os.umask(before)
    assert modes == [0o700]
    assert stat.S_IMODE((work / "target").stat().st_mode) == 0o700


def test_twenty_thousand_names_come_back(store: Path, work: Path) -> None:
    (work / "source").mkdir()
    for number in range(20_000):
        os.close(os.open(work / "source" / f"{number:x}", os.O_CREAT | os.O_WRONLY, 0o600))
    version, tally = archived(store, work / "source")
    assert tally.entries == 20_001
    restored(store, version.root, work / "target")
    assert sorted(os.listdir(work / "target")) == sorted(os.listdir(work / "source"))
    again, tally = archived(store, work / "target")
    assert (tally.new_bytes, tree_score(again.root)) == (0, tree_score(version.root))
    with Store.open(store) as opened:
        assert resolve(opened, version.root, b"4e1f").mode == stat.S_IFREG | 0o600


def deep(root: Path, name: bytes, depth: int) -> None:
    """Directories in each other, with a file at the bottom."""
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    bottom = os.open(b"bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(bottom, b"deep down")
    os.link(b"bottom", b"linked", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(bottom)
    os.close(fd)


@pytest.mark.parametrize(("name", "depth"), [(b"d" * 255, 40), (b"d", 1500)])
def test_paths_past_the_kernels_limit_come_back(
    store: Path, work: Path, name: bytes, depth: int
) -> None:
    deep(work / "source", name, depth)
    round_trip(store, work / "source", work / "target")


def test_a_part_comes_back_alone(store: Path, work: Path) -> None:
    source = plain_tree(work / "source")
    version, _ = archived(store, source)
    with Store.open(store) as opened:
        links = resolve(opened, version.root, b"links/in")
        Restorer(opened).run(links, work / "in")
        Restorer(opened).run(resolve(opened, version.root, b"sparse"), work / "file")
        Restorer(opened).run(resolve(opened, version.root, b"absolute"), work / "link")
    assert (work / "in" / "a").read_bytes() == b"linked" * 100
    assert (work / "in" / "a").stat().st_nlink == 1
    assert (work / "file").read_bytes() == (source / "sparse").read_bytes()
    assert os.readlink(work / "link") == "/etc/passwd"


def test_a_target_with_something_in_it_is_refused(store: Path, work: Path) -> None:
    (work / "source").mkdir()
    (work / "source" / "new").write_bytes(b"new")
    version, _ = archived(store, work / "source")
    (work / "target").mkdir()
    (work / "target" / "precious").write_bytes(b"old")
    with pytest.raises(VentifsError, match="target: not empty"):
        restored(store, version.root, work / "target")
    with Store.open(store) as opened, pytest.raises(VentifsError, match="is there already"):
        Restorer(opened).run(resolve(opened, version.root, b"new"), work / "target" / "precious")
    assert os.listdir(work / "target") == ["precious"]
    assert (work / "target" / "precious").read_bytes() == b"old"


def _restored_by_nobody(store: Path, source: Path, target: Path) -> None:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    version, _ = archived(store, source)
    assert restored(store, version.root, target).left == []
    same(source, target)
    (target / "d").chmod(0o755)
    (target / "d" / "file").unlink()
    (target / "d").chmod(0)  # what is in the way of its owner is not in the way of a restore
    with Store.open(store) as opened:
        done = Restorer(opened, overwrite=True).run(version.root, target)
    assert (done.left, done.failed) == ([], [])
    same(source, target)


@as_root
def test_a_user_gets_all_of_his_own_back() -> None:
    root = Path(tempfile.mkdtemp())  # pytest's own directories are closed to others
    try:
        (root / "source" / "d").mkdir(parents=True)
        for path in ("d/file", "d"):
            (root / "source" / path).touch()
            os.setxattr(root / "source" / path, "user.a", b"1")
            (root / "source" / path).chmod(0o544)
        (root / "source").chmod(0o555)
        new_store(root / "store")
        subprocess.run(["chown", "-R", "65534:65534", root], check=True)
        child = multiprocessing.get_context("forkserver").Process(
            target=_restored_by_nobody, args=(root / "store", root / "source", root / "target")
        )
        child.start()
        child.join(PATIENCE_S)
        assert child.exitcode == 0
    finally:
        remove(root)


# --- hostile archives -------------------------------------------------------------------------


def entry(name: bytes, mode: int, detail: Detail, link: bytes = b"") -> Entry:
    return Entry(name, mode, os.geteuid(), os.getegid(), 0, detail, Empty(), link)


def file(name: bytes, data: bytes = b"evil", link: bytes = b"") -> Entry:
    return entry(name, stat.S_IFREG | 0o644, RegularFile(Inline(data)), link)


def symlink(name: bytes, target: bytes, link: bytes = b"") -> Entry:
    return entry(name, stat.S_IFLNK | 0o777, Symlink(target), link)


def directory(store: Store, name: bytes, *children: Entry) -> Entry:
    """A directory of these children, in whatever order and however named they are."""
    pairs = [(child.name, encode(child)) for child in children]
    content: Content = build(lambda data: store.put(data, node=True)[0], pairs)
    return entry(name, stat.S_IFDIR | 0o755, Directory(content, 99, 0))


@pytest.mark.parametrize("name", [b"..", b".", b"../outside", b"/outside", b"a\0", b""])
def test_a_name_that_leads_elsewhere_writes_nothing(store: Path, work: Path, name: bytes) -> None:
    with Store.open(store, "write") as opened:
        root = directory(opened, b"", file(name))
        done = Restorer(opened).run(root, work / "target")
    assert [path for path, _ in done.failed] == [b""]
    assert os.listdir(work) == ["target"]
    assert os.listdir(work / "target") == []


def test_a_link_and_a_directory_of_one_name_write_nothing_elsewhere(
    store: Path, work: Path
) -> None:
    (work / "outside").mkdir()
    link = symlink(b"d", os.fsencode(work / "outside"))
    with Store.open(store, "write") as opened:
        for children in ((link, directory(opened, b"d", file(b"x"))), (link, file(b"d"))):
            root = directory(opened, b"", *children)
            target = work / f"target{len(os.listdir(work))}"
            done = Restorer(opened).run(root, target)
            assert [path for path, _ in done.failed] == [b""]
            assert os.readlink(target / "d") == str(work / "outside")
    assert os.listdir(work / "outside") == []


def test_hard_links_do_not_lead_through_symbolic_links(store: Path, work: Path) -> None:
    (work / "outside").write_bytes(b"precious")
    before = (work / "outside").stat()
    one, two = b"1" * 16, b"2" * 16
    with Store.open(store, "write") as opened:
        root = directory(
            opened,
            b"",
            symlink(b"a", os.fsencode(work / "outside"), one),
            file(b"b", b"evil", one),
            directory(opened, b"c", symlink(b"a", b"../../outside", two), file(b"b", b"x", two)),
        )
        Restorer(opened).run(root, work / "target")
    assert (work / "outside").read_bytes() == b"precious"
    after = (work / "outside").stat()
    assert (after.st_nlink, after.st_mode, after.st_mtime_ns) == (
        before.st_nlink,
        before.st_mode,
        before.st_mtime_ns,
    )
    assert (work / "target" / "a").is_symlink()
    assert (work / "target" / "b").read_bytes() == b"evil"
    assert (work / "target" / "c" / "b").read_bytes() == b"x"


def test_a_claim_to_be_another_files_link_gets_its_own_contents(store: Path, work: Path) -> None:
    one = b"1" * 16
    with Store.open(store, "write") as opened:
        root = directory(
            opened,
            b"",
            file(b"a", b"secret", one),
            file(b"b", b"secret", one),
            file(b"c", b"other", one),
            file(b"d", b"other", one),
        )
        Restorer(opened).run(root, work / "target")
    texts = {name: (work / "target" / name).read_bytes() for name in "abcd"}
    assert texts == {"a": b"secret", "b": b"secret", "c": b"other", "d": b"other"}
    inodes = [(work / "target" / name).stat().st_ino for name in "abcd"]
    assert inodes[0] == inodes[1] != inodes[2] == inodes[3]


def test_a_link_target_with_a_nul_is_corrupt(store: Path, work: Path) -> None:
    with Store.open(store, "write") as opened:
        root = directory(opened, b"", symlink(b"a", b"x\0y"))
        [(_, reason)] = Restorer(opened).run(root, work / "target").failed
    assert "NUL" in reason


def test_huge_attributes_are_corrupt_and_not_allocated(store: Path) -> None:
    with Store.open(store, "write") as opened:
        score = opened.put(noise(600))[0]
        one = Entry(b"a", stat.S_IFREG, 0, 0, 0, RegularFile(Empty()), Block(score, 2**62), b"")
        with pytest.raises(Corrupt):
            xattrs_of(opened, one)

"""Restores over symbolic links to directories: which are kept, and that none leads outside."""

import contextlib
import ctypes
import errno
import os
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import processes
from tests.support.restoring import restored_by
from tests.support.stores import new_store
from tests.support.trees import archived, noise, remove
from tests.support.walker import look_at
from ventifs.store import Store
from ventifs.tree.objects.records import Entry
from ventifs.tree.patterns import Patterns
from ventifs.tree.restore import destination as places
from ventifs.tree.restore import directory_symlinks as symlinks
from ventifs.tree.restore.directory_symlinks import Symlinks
from ventifs.tree.restore.dry_run import Plan
from ventifs.tree.restore.restored import Restored
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.restore.selection import Selection

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
MALLORY = 12345


class Work:
    """A source to archive, a destination with links, and what lies outside of it."""

    def __init__(self, root: Path) -> None:
        new_store(root / "store")
        self.root = root
        self.source, self.target, self.outside = (
            root / name for name in ("source", "target", "outside")
        )
        for path in (self.source, self.target, self.outside):
            path.mkdir()
        (self.outside / "precious").write_bytes(b"precious")

    def archive(self, *paths: str) -> None:
        """Archive files, each of which holds its path."""
        for path in paths:
            (self.source / path).parent.mkdir(parents=True, exist_ok=True)
            (self.source / path).write_bytes(path.encode())
        self.version, _ = archived(self.root / "store", self.source)

    def link(self, name: str, target: str, owner: int | None = None) -> None:
        """Put a link into the destination."""
        (self.target / name).parent.mkdir(parents=True, exist_ok=True)
        (self.target / name).symlink_to(target)
        if owner is not None:
            os.lchown(self.target / name, owner, owner)

    def restore(
        self, kept: Symlinks = Symlinks.TRUSTED, selection: Selection | None = None
    ) -> Restored:
        """Restore over it, and see that a plan says the same beforehand."""
        selection = selection or Selection()
        with Store.open(self.root / "store") as opened:
            plan = Plan(
                opened,
                self.version.root,
                selection,
                lambda *_: None,
                target=self.target,
                symlinks=kept,
            )
            done = Restorer(opened, overwrite=True, symlinks=kept, selection=selection).run(
                self.version.root, self.target
            )
        assert (plan.replaced, plan.failed) == (done.replaced, done.failed)
        assert plan.entries == done.entries
        assert os.listdir(self.outside) == ["precious"]
        assert not list(self.target.rglob(".ventifs*"))
        return done

    def read(self, path: str) -> str:
        return (self.target / path).read_text()


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    before = os.umask(0o022)  # links in directories that others can write to are not kept
    yield Work(tmp_path)
    os.umask(before)
    processes.kill_all()
    for name in ("source", "target"):
        remove(tmp_path / name)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_merged_root_stays_merged(work: Work, jobs: int) -> None:
    """A version from before the merge, over a root from after it."""
    work.archive(
        "bin/sh",
        "usr/bin/env",
        "usr/lib/modules/x",
        *(
            path.format(number)
            for number in range(40)
            for path in ("lib/old{}", "usr/lib/new{}", "lib/modules/{}/m")
        ),
    )
    for path in ("usr/lib", "usr/bin"):
        (work.target / path).mkdir(parents=True)
    for name in ("lib", "bin"):
        work.link(name, f"usr/{name}")
    report = restored_by(work.root / "store", "t", work.target, jobs, overwrite=True)
    assert report == ""
    assert os.readlink(work.target / "lib") == "usr/lib"
    assert os.readlink(work.target / "bin") == "usr/bin"
    there = set(os.listdir(work.target / "usr" / "lib"))
    assert there == {"modules"} | {f"{kind}{n}" for n in range(40) for kind in ("old", "new")}
    assert work.read("usr/bin/sh") == "bin/sh"
    assert work.read("lib/modules/7/m") == "lib/modules/7/m"
    assert work.read("lib/modules/x") == "usr/lib/modules/x"
    for path in ("", "usr", "usr/lib", "usr/bin", "usr/lib/modules", "usr/lib/modules/7"):
        archived_as = work.source / path
        if not archived_as.exists():
            archived_as = work.source / path.removeprefix("usr/")
        assert _metadata(work.target / path) == _metadata(archived_as), path


def _metadata(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mode, status.st_mtime_ns


@pytest.mark.parametrize("name", ["aa", "zz"])  # before and after `usr` in order
def test_two_names_of_one_directory_do_not_undo_each_other(work: Work, name: str) -> None:
    work.archive(f"{name}/only", f"{name}/same", f"{name}/other", "usr/lib/same", "usr/lib/other")
    for same in (work.source / "usr" / "lib" / "same", work.source / name / "same"):
        same.write_bytes(b"same")
        os.utime(same, ns=(0, 10**18))
    (work.source / name).chmod(0o700)
    (work.source / "usr" / "lib").chmod(0o751)
    work.archive()
    (work.target / "usr" / "lib").mkdir(parents=True)
    work.link(name, "usr/lib")
    done = work.restore()
    [(path, reason)] = done.failed
    assert path == f"{name}/other".encode()
    assert reason.startswith("usr/lib/other, which is archived too, is at the same place")
    assert work.read("usr/lib/only") == f"{name}/only"
    assert work.read("usr/lib/other") == "usr/lib/other"
    assert _metadata(work.target / "usr" / "lib") == _metadata(work.source / "usr" / "lib")
    # The remedy that the message names:
    done = work.restore(Symlinks.REPLACE)
    assert [path for path, _ in done.replaced] == [name.encode()]
    assert done.failed == []
    assert work.read(f"{name}/other") == f"{name}/other"
    assert _metadata(work.target / name) == _metadata(work.source / name)


@pytest.mark.parametrize("is_archived", [False, True])
@pytest.mark.parametrize("links", [("a", "b"), ("a", "z"), ("y", "z")])  # around `usr` in order
def test_two_links_to_one_directory_do_not_undo_each_other(
    work: Work, links: tuple[str, str], is_archived: bool
) -> None:
    one, two = links
    names = ["usr/lib/own", "usr/lib/x"] if is_archived else []
    for link in links:
        names += [f"{link}/{name}" for name in ("own", "x", "p", "old/y", "new/y", "new/deep/y")]
        names.append(f"{link}/new/{link}")
    (work.target / "usr" / "lib" / "old").mkdir(parents=True)
    work.archive(*names)
    for number, link in enumerate(links):
        (work.source / link / "new").chmod(0o710 + number)
        work.link(link, "usr/lib")
    work.archive()
    done = work.restore()
    reported = {os.fsdecode(path) for path, _ in done.failed}
    first = ["own", "x"] if is_archived else []
    assert reported == {f"{one}/{name}" for name in first} | {
        f"{two}/{name}" for name in ("own", "x", "p", "old/y", "new/y", "new/deep/y")
    }
    for name in names:
        assert (work.read(name) == name) == (name not in reported)
    decides = "usr/lib" if is_archived else one
    assert _metadata(work.target / "usr" / "lib") == _metadata(work.source / decides)
    assert _metadata(work.target / "usr" / "lib" / "new") == _metadata(work.source / one / "new")


def test_a_link_above_another_links_directory_does_not_undo_that(work: Work) -> None:
    work.archive("lib/q", "lib/new/q", "m/lib/q", "m/lib/new/q", "m/lib/new/only")
    (work.target / "usr" / "lib").mkdir(parents=True)
    work.link("lib", "usr/lib")
    work.link("m", "usr")
    done = work.restore()
    assert [path for path, _ in done.failed] == [b"m/lib/new/q", b"m/lib/q"]
    assert work.read("usr/lib/q") == "lib/q"
    assert work.read("usr/lib/new/q") == "lib/new/q"
    assert work.read("usr/lib/new/only") == "m/lib/new/only"


def test_a_third_name_is_decided_by_the_first_that_is_restored(work: Work) -> None:
    """What the second name was refused does not stand in the way of the third."""
    work.archive("a/x", "b/x/f", "usr/lib/x/g")
    (work.target / "usr" / "lib").mkdir(parents=True)
    work.link("a", "usr/lib")
    work.link("b", "usr/lib")
    assert [path for path, _ in work.restore().failed] == [b"a/x"]
    assert (work.read("usr/lib/x/f"), work.read("usr/lib/x/g")) == ("b/x/f", "usr/lib/x/g")


@pytest.mark.parametrize("chosen", [b"/usr/lib/x/g", b"/usr/lib/x/none"])
def test_a_directory_on_the_way_to_what_is_chosen_decides(work: Work, chosen: bytes) -> None:
    work.archive("a/x", "usr/lib/x/g")
    (work.target / "usr" / "lib").mkdir(parents=True)
    work.link("a", "usr/lib")
    done = work.restore(selection=Selection(include=Patterns([b"/a", chosen])))
    if chosen.endswith(b"g"):
        assert [path for path, _ in done.failed] == [b"a/x"]
        assert work.read("usr/lib/x/g") == "usr/lib/x/g"
    else:
        assert done.failed == []
        assert work.read("usr/lib/x") == "a/x"


_NAMES = st.sampled_from(["a", "b", "r", "s"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_DIRECTORIES = ["0", "0/a", "0/a/b", "r", "r/a", "r/s", "r/s/a", "."]  # before and after the links


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    files=st.dictionaries(
        st.one_of(_PATHS, st.tuples(st.sampled_from(_DIRECTORIES), _PATHS).map("/".join)),
        st.sampled_from([b"1", b"2"]),
        min_size=2,
        max_size=12,
    ),
    links=st.dictionaries(
        st.sampled_from(["a", "b", "s", "a/a", "r/b", "0/b", "0/s"]),
        st.sampled_from(_DIRECTORIES),
        min_size=1,
        max_size=4,
    ),
)
def test_every_file_is_there_or_reported(
    tmp_path: Path, files: dict[str, bytes], links: dict[str, str]
) -> None:
    work = Work(Path(tempfile.mkdtemp(dir=tmp_path)))
    for path in _DIRECTORIES:
        (work.target / path / "mine").mkdir(parents=True, exist_ok=True)  # no file replaces it
    for name, leads_to in links.items():
        if not os.path.lexists(work.target / name) and not (work.target / name).parent.is_symlink():
            above = "../" * name.count("/")
            work.link(name, f"{above}{leads_to}")
    archived_files = {}
    for path, content in files.items():
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
            (work.source / path).parent.mkdir(parents=True, exist_ok=True)
            (work.source / path).write_bytes(content)
            os.utime(work.source / path, ns=(0, 10**18))
            archived_files[os.path.normpath(path)] = content
    work.archive()
    with Store.open(work.root / "store") as opened:  # a plan does not know what is in the way
        done = Restorer(opened, overwrite=True).run(work.version.root, work.target)
    reported = [os.fsdecode(path) for path, _ in done.failed]
    for path, content in archived_files.items():
        if not any(path == each or path.startswith(f"{each}/") for each in reported):
            assert (work.target / path).read_bytes() == content, path
    for path in reported:  # without cause is nothing
        there = work.target / path
        assert there.is_dir() or there.read_bytes() != archived_files.get(path)


def test_what_is_chosen_by_a_links_name_alone_is_restored_there(work: Work) -> None:
    work.archive("lib/x", "usr/lib/x")
    (work.target / "usr" / "lib").mkdir(parents=True)
    before = _metadata(work.target / "usr" / "lib")
    work.link("lib", "usr/lib")
    done = work.restore(selection=Selection(include=Patterns([b"/lib"])))
    assert done.failed == []
    assert work.read("usr/lib/x") == "lib/x"
    assert _metadata(work.target / "usr" / "lib") == before


def test_a_directory_that_only_a_link_leads_to_gets_what_is_archived_of_it(work: Work) -> None:
    work.archive("www/page", "www/sub/page")
    (work.source / "www").chmod(0o750)
    work.archive()
    (work.target / "srv" / "www").mkdir(parents=True)
    work.link("www", "./srv/../srv//www/")
    work.restore()
    assert (work.target / "www").is_symlink()
    assert work.read("srv/www/sub/page") == "www/sub/page"
    assert _metadata(work.target / "srv" / "www") == _metadata(work.source / "www")


def test_a_link_to_where_it_is_itself_ends(work: Work) -> None:
    work.archive("d/f", "d/d/d/g", "f")
    work.link("d", ".")
    done = work.restore()
    assert done.replaced == []
    assert [path for path, _ in done.failed] == [b"d/f"]
    assert work.read("f") == "f"
    assert work.read("g") == "d/d/d/g"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("../outside", "it leads outside the destination"),
        ("x/../../outside", "it leads outside the destination"),
        ("{outside}", "it is absolute, so it leads outside the destination"),
        ("{target}/real", "it is absolute, so it leads outside the destination"),
        ("/", "it is absolute, so it leads outside the destination"),
        ("nowhere", "it leads to no directory"),
        ("file", "it leads to no directory"),
        ("file/..", "it leads to no directory"),
        ("d", "it leads through too many links, or in a circle"),
        ("circle", "it leads through too many links, or in a circle"),
        ("way/out", "it leads outside the destination"),
    ],
)
@pytest.mark.parametrize("kept", [Symlinks.TRUSTED, Symlinks.KEEP])
def test_what_leads_to_no_directory_beneath_is_replaced(
    work: Work, target: str, reason: str, kept: Symlinks
) -> None:
    work.archive("d/e/f")
    (work.target / "real").mkdir()
    (work.target / "x").mkdir()
    (work.target / "file").write_bytes(b"mine")
    work.link("circle", "d")
    work.link("way/out", "../../outside")
    work.link("d", target.format(outside=work.outside, target=work.target))
    done = work.restore(kept)
    [(path, said)] = done.replaced
    assert path == b"d"
    assert said.endswith(f": {reason}")
    assert stat.S_ISDIR((work.target / "d").lstat().st_mode)
    assert work.read("d/e/f") == "d/e/f"
    assert os.listdir(work.target / "real") == []


def test_a_chain_of_links_is_followed_to_its_end(work: Work) -> None:
    work.archive("d/f")
    (work.target / "a" / "real").mkdir(parents=True)
    for number in range(38):
        work.link(f"chain{number}", f"chain{number + 1}")
    work.link("chain38", "a/one")
    work.link("a/one", "../a/real")
    work.link("d", "chain1")
    assert work.restore().replaced == []
    assert work.read("a/real/f") == "d/f"


@as_root
@pytest.mark.parametrize(
    ("kept", "replaced"),
    [
        (Symlinks.TRUSTED, {"direct", "through"}),
        (Symlinks.KEEP, set()),
        (Symlinks.REPLACE, {"direct", "through", "ours"}),
    ],
)
def test_others_links_are_kept_only_on_demand(
    work: Work, kept: Symlinks, replaced: set[str]
) -> None:
    work.archive("direct/f", "through/f", "ours/f")
    (work.target / "etc").mkdir()
    (work.target / "real").mkdir()
    work.link("direct", "etc", MALLORY)
    work.link("hers", "etc", MALLORY)
    work.link("through", "hers")
    work.link("ours", "real")
    done = work.restore(kept)
    assert {os.fsdecode(path) for path, _ in done.replaced} == replaced
    for path, said in done.replaced:
        if kept is Symlinks.TRUSTED:
            which = "it" if path == b"direct" else "a link on its way"
            assert said.endswith(f": {which} belongs to user {MALLORY}")
    assert os.listdir(work.target / "etc") == ([] if kept is not Symlinks.KEEP else ["f"])


@as_root
def test_a_users_own_links_are_kept(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.archive("d/f")
    (work.target / "real").mkdir()
    work.link("d", "real", MALLORY)
    monkeypatch.setattr(os, "geteuid", lambda: MALLORY)
    top = os.open(work.target, os.O_RDONLY)
    names, fd = symlinks.follow(top, (), top, b"d", Symlinks.TRUSTED)
    assert names == (b"real",)
    for each in (fd, top):
        os.close(each)


@as_root
@pytest.mark.parametrize(
    ("link", "target", "source", "name"),
    [
        ("rootlink", "../../etc", "rootlink", "docs"),
        ("x/docs", "../../../etc", "x", "y"),
    ],
)
def test_a_link_of_roots_that_a_user_has_moved_is_replaced(
    work: Work, link: str, target: str, source: str, name: str
) -> None:
    """A user may rename what is in a directory of his own, whoever owns it."""
    (work.target / "etc").mkdir()
    work.link(f"home/u/{link}", target)
    path = "home/u/" + link.replace(source, name, 1)
    work.archive(f"{path}/passwd")
    there = work.target / "home" / "u"
    os.chown(there, MALLORY, MALLORY)
    subprocess.run(
        ["mv", source, name], cwd=there, user=MALLORY, group=MALLORY, extra_groups=[], check=True
    )
    done = work.restore()
    why = f"its way is through home/u, which belongs to user {MALLORY}"
    assert done.replaced == [(path.encode(), f"a symbolic link to {target}: {why}")]
    assert os.listdir(work.target / "etc") == []
    assert work.read(f"{path}/passwd") == f"{path}/passwd"


@as_root
@pytest.mark.parametrize(
    ("untrusted", "mode", "is_kept"),
    [
        ("", 0o755, False),
        ("a", 0o755, False),
        ("a/b", 0o755, False),  # down to the link
        ("c", 0o755, False),
        ("c/d", 0o755, True),  # and along what it leads through
        ("a", 0o775, False),
        ("a/b", 0o1777, False),
        ("c", 0o757, False),
        ("", 0o775, False),
        ("c/d", 0o1777, True),
    ],
)
def test_directories_on_the_way_must_be_trusted(
    work: Work, untrusted: str, mode: int, is_kept: bool
) -> None:
    work.archive("a/b/l/f")
    (work.target / "c" / "d").mkdir(parents=True)
    work.link("a/b/l", "../../c/d")
    if mode == 0o755:
        os.chown(work.target / untrusted, MALLORY, MALLORY)
    (work.target / untrusted).chmod(mode)
    done = work.restore()
    assert [path for path, _ in done.replaced] == ([] if is_kept else [b"a/b/l"])
    assert os.listdir(work.target / "c" / "d") == (["f"] if is_kept else [])
    if not is_kept:
        why = "other users can write" if mode != 0o755 else f"belongs to user {MALLORY}"
        assert why in done.replaced[0][1]
        assert (untrusted or "the destination") in done.replaced[0][1]


_PARTS = st.sampled_from(["a", "b", "c", "l", "m", ".", "..", "", "f"])
_TARGETS = st.lists(_PARTS, min_size=1, max_size=5).map("/".join).filter(bool)
_OPENAT2 = 437  # everywhere
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08


def _openat2(directory: int, name: bytes) -> os.stat_result | None:
    """The directory that Linux finds beneath another; None if there is none."""
    how = struct.pack(
        "QQQ",
        os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC,
        0,
        _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS,
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_OPENAT2, directory, name, how, len(how))
    if fd < 0:
        if ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
            pytest.skip("no openat2 here")
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    links=st.dictionaries(
        st.sampled_from(["l", "m", "a/l", "a/b/l", "a/b/m", "c/l"]), _TARGETS, min_size=1
    )
)
def test_a_link_leads_where_the_kernel_says_it_leads_beneath(
    tmp_path: Path, links: dict[str, str]
) -> None:
    """As openat2 does with RESOLVE_BENEATH, for links at the top and below."""
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "c").mkdir()
    (root / "f").touch()
    for name, target in links.items():
        (root / name).symlink_to(target)
    top = os.open(root, os.O_RDONLY)
    for name in links:
        *where, last = map(os.fsencode, name.split("/"))
        directory = os.open((root / name).parent, os.O_RDONLY)
        expected = _openat2(top, name.encode())
        try:
            names, fd = symlinks.follow(top, tuple(where), directory, last, Symlinks.KEEP)
        except symlinks.NotKept:
            assert expected is None
        else:
            assert expected is not None
            assert os.path.samestat(os.fstat(fd), expected)
            assert os.path.samestat(os.stat(b"/".join((b".", *names)), dir_fd=top), expected)
            os.close(fd)
        os.close(directory)
    os.close(top)


@as_root
def test_nobodys_link_never_directs_roots_restore_outside(work: Work) -> None:
    work.archive("home/dir/precious")
    work.link("home/dir", str(work.outside), MALLORY)
    for kept in (Symlinks.KEEP, Symlinks.TRUSTED):
        work.restore(kept)
        assert (work.outside / "precious").read_bytes() == b"precious"
        assert work.read("home/dir/precious") == "home/dir/precious"


@pytest.mark.parametrize("step", ["readlink", "enter"])
def test_a_link_that_is_swapped_meanwhile_leads_nowhere_else(
    work: Work, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """At the check itself, and between it and the first use."""
    work.archive("d/precious", "d/e/f")
    (work.target / "real").mkdir()
    work.link("d", "real")

    def swap() -> None:
        (work.target / "d").unlink()
        (work.target / "d").symlink_to(work.outside)
        (work.target / "real").rename(work.target / "moved")
        (work.target / "real").symlink_to(work.outside)

    if step == "readlink":
        real_readlink = os.readlink

        def readlink(path: bytes, dir_fd: int) -> bytes:
            if path == b"" and not (work.target / "moved").exists():
                swap()
            return real_readlink(path, dir_fd=dir_fd)

        monkeypatch.setattr(os, "readlink", readlink)
    else:
        real_follow = symlinks.follow

        def follow(*words: object) -> tuple[symlinks.DirectoryNames, int]:
            found = real_follow(*words)  # type: ignore[arg-type]
            swap()
            return found

        monkeypatch.setattr(places, "follow", follow)
    with Store.open(work.root / "store") as opened:
        done = Restorer(opened, overwrite=True).run(work.version.root, work.target)
    monkeypatch.undo()
    assert (work.outside / "precious").read_bytes() == b"precious"
    assert os.listdir(work.outside) == ["precious"]
    if step == "enter":  # the directory that was checked, wherever it is now
        assert work.read("moved/precious") == "d/precious"
    else:
        assert [path for path, _ in done.replaced] == [b"d"]
        assert work.read("d/precious") == "d/precious"


def test_a_link_that_becomes_a_directory_meanwhile_is_restored(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.archive("d/f", "d/e/g")
    (work.target / "real").mkdir()
    work.link("d", "real")
    real_follow = symlinks.follow

    def follow(*words: object) -> tuple[symlinks.DirectoryNames, int]:
        (work.target / "d").unlink()
        (work.target / "d").mkdir()
        return real_follow(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(places, "follow", follow)
    with Store.open(work.root / "store") as opened:
        done = Restorer(opened, overwrite=True).run(work.version.root, work.target)
    assert (done.failed, done.replaced) == ([], [])
    assert work.read("d/f") == "d/f"
    assert work.read("d/e/g") == "d/e/g"
    assert _metadata(work.target / "d") == _metadata(work.source / "d")


def test_a_directory_that_was_closed_meanwhile_is_found_again_or_fails(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_OPEN_MAX", 2)
    work.archive("d/a/b/c/e/f", "d/z")
    (work.target / "real").mkdir()
    work.link("d", "real")
    assert work.restore().failed == []
    assert work.read("real/z") == "d/z"
    real_leave = Restorer.leave

    def leave(self: Restorer) -> None:
        assert self._at is not None
        if self._at.entry.name == b"e" and not (work.target / "away").exists():
            (work.target / "real").rename(work.target / "away")
            (work.target / "real").mkdir()
        real_leave(self)

    monkeypatch.setattr(Restorer, "leave", leave)
    with Store.open(work.root / "store") as opened:
        done = Restorer(opened, overwrite=True).run(work.version.root, work.target)
    assert (b"d/z", "stale file handle") in done.failed
    assert os.listdir(work.target / "real") == []


def test_hard_links_and_large_files_go_through_a_link(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ventifs.tree.restore.restorer.LARGE", 100_000)
    work.archive("d/one", "e/f")
    (work.source / "d" / "large").write_bytes(noise(300_000))
    os.link(work.source / "d" / "one", work.source / "e" / "two")
    os.link(work.source / "d" / "one", work.source / "z")
    work.archive()
    (work.target / "real").mkdir()
    work.link("d", "real")
    assert work.restore().failed == []
    assert (work.target / "real" / "large").read_bytes() == noise(300_000)
    assert os.path.samefile(work.target / "real" / "one", work.target / "e" / "two")
    assert os.path.samefile(work.target / "real" / "one", work.target / "z")


def test_a_destination_that_is_a_link_is_what_was_named(work: Work) -> None:
    work.archive("f")
    (work.root / "name").symlink_to(work.target)
    with Store.open(work.root / "store") as opened:
        Restorer(opened, overwrite=True).run(work.version.root, work.root / "name")
    assert work.read("f") == "f"
    assert (work.root / "name").is_symlink()


@as_root
def test_absolute_links_lead_beneath_the_root_of_the_host(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own whose `/` is the destination."""
    work.archive("lib/f")
    (work.target / "usr" / "lib").mkdir(parents=True)
    work.link("lib", "/usr/lib")
    top = os.open(work.target, os.O_RDONLY)
    child = os.fork()
    if child == 0:
        try:
            os.chroot(work.target)
            names, _ = symlinks.follow(top, (), top, b"lib", Symlinks.TRUSTED)
            os._exit(names != (b"usr", b"lib"))
        finally:
            os._exit(9)
    assert os.waitpid(child, 0) == (child, 0)
    with pytest.raises(symlinks.NotKept, match="absolute"):
        symlinks.follow(top, (), top, b"lib", Symlinks.TRUSTED)
    os.close(top)


def test_what_is_chosen_is_what_the_walk_comes_to(work: Work) -> None:
    work.archive("a/b/c", "a/x.log", "var/keep", "b/b")
    paths = [os.fsdecode(path) for path in look_at(work.source)]
    for include, exclude in (([], []), ([b"b"], []), ([], [b"*.log"]), ([b"a/"], [b"b"])):
        selection = Selection(Patterns(include), Patterns(exclude))
        told: list[bytes] = []
        with Store.open(work.root / "store") as opened:
            Plan(opened, work.version.root, selection, partial(_append, told))
        files = [path for path in paths if (work.source / path).is_file()]
        chosen = [path for path in files if selection.chooses(path.encode(), directory=False)]
        assert chosen == [path for path in files if path.encode() in told]


def _append(told: list[bytes], path: bytes, _: Entry) -> None:
    told.append(path)

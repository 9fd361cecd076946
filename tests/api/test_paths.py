"""Paths in a version: what is there, what is not, and how names are spelled."""

import os
import stat
from pathlib import Path

import pytest

import ventifs
from tests.support.trees import plain_tree


def test_listing_is_in_order_of_bytes(version: ventifs.ArchivedVersion) -> None:
    assert [path.path for path in version.root.iterdir()] == sorted(
        [b"etc", b"fifo", b"link", b"nothing", b"odd link", b"sparse"]
    )
    etc = version / "etc"
    assert [path.path for path in etc.iterdir()] == [b"etc/deep", b"etc/hostname", b"etc/\xff\n"]
    assert [name for name, _ in etc.scan()] == [b"deep", b"hostname", b"\xff\n"]
    assert [name for name, _ in etc.scan(recursive=True)] == [
        b"deep",
        b"deep/file",
        b"deep/new",
        b"hostname",
        b"\xff\n",
    ]
    assert [path.path for path in etc.walk()] == [
        b"etc/" + name for name, _ in etc.scan(recursive=True)
    ]
    assert list((version / "sparse").walk()) == []


def test_attributes(version: ventifs.ArchivedVersion, source: Path) -> None:
    for path in [version.root, *version.walk()]:
        there = os.lstat(os.fsencode(source) + b"/" + path.path)
        assert (path.mode, path.uid, path.gid) == (there.st_mode, there.st_uid, there.st_gid)
        assert path.mtime_ns == there.st_mtime_ns
        assert path.size == (there.st_size if stat.S_ISREG(there.st_mode) else 0)
        assert path.is_dir() == stat.S_ISDIR(there.st_mode)
        assert path.is_file() == stat.S_ISREG(there.st_mode)
        assert path.is_symlink() == stat.S_ISLNK(there.st_mode)
        assert path.device is None


def test_attributes_of_other_kinds(archive: ventifs.Archive, tmp_path: Path) -> None:
    tree = plain_tree(tmp_path / "plain")
    os.setxattr(tree / "empty", "user.note", b"\xff")
    with ventifs.open(archive.store.path, "write") as writing:
        root = writing.add(tree, "plain").version.root
        assert (root / "empty").xattrs() == {b"user.note": b"\xff"}
        assert (root / "size0").xattrs() == {}
        assert (root / "absolute").readlink() == "/etc/passwd"


def test_paths_are_joined_below(version: ventifs.ArchivedVersion) -> None:
    etc = version / "etc"
    for same in (
        version / "/etc/hostname",
        version / b"etc//hostname/",
        version / Path("./etc/hostname"),
        etc / "hostname",
        etc / "/hostname",
        etc / "deep" / ".." / "hostname",
    ):
        assert same.exists() == (b".." not in same.path)
        if same.exists():
            assert same == etc / "hostname"
            assert hash(same) == hash(etc / "hostname")
    assert etc / "" == etc / "." == etc
    assert etc != version / "etc/deep"
    assert str(etc / "hostname") == "/etc/hostname"
    assert str(version.root) == "/"
    assert version.root.name == ""
    assert version.root.parent == version.root
    assert (etc / "hostname").parent == etc
    assert repr(etc / b"\xff\n") == r"<ArchivedPath t@1970-01-02T00:00:00Z:/etc/\xff\n>"


def test_names_that_are_not_utf8(version: ventifs.ArchivedVersion) -> None:
    [odd] = [path for path in (version / "etc").iterdir() if path.name.endswith("\n")]
    assert odd.path == b"etc/\xff\n"
    assert odd.name == os.fsdecode(b"\xff\n") == "\udcff\n"
    assert version / "etc" / odd.name == version / str(odd) == version / odd.path == odd
    assert (version / str(odd)).read_bytes() == b"odd"
    assert (version / "odd link").readlink() == "\udcfe"


def test_what_is_not_there(version: ventifs.ArchivedVersion) -> None:
    nowhere = version / "etc/none/below"
    assert not nowhere.exists()
    assert not nowhere.is_dir()
    assert not nowhere.is_file()
    assert not nowhere.is_symlink()
    for attempt in (lambda: nowhere.size, nowhere.open, nowhere.iterdir, nowhere.walk):
        with pytest.raises(ventifs.NoSuchPath, match=r"^t:/etc/none: no such path in this v"):
            attempt()
    with pytest.raises(ventifs.NoSuchPath, match=r"^t:/link: a symbolic link, which is not fol"):
        _ = (version / "link/below").size


def test_paths_are_looked_up_from_the_one_they_were_made_of(
    version: ventifs.ArchivedVersion,
) -> None:
    etc = version / "etc"
    assert etc.is_dir()  # it is known from now on
    assert (etc / "hostname").size == 14
    with pytest.raises(ventifs.NoSuchPath, match=r"^t:/etc/deep/no: no such path in this version$"):
        _ = (etc / "deep/no/more").mode
    with pytest.raises(ventifs.NoSuchPath, match=r"^t:/etc/hostname: not a directory$"):
        _ = (etc / "hostname" / "more").mode


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("etc", "a directory, not a regular file"),
        ("link", "a symbolic link, which is not followed"),
        ("fifo", "a FIFO or socket, not a regular file"),
    ],
)
def test_only_regular_files_are_opened(
    version: ventifs.ArchivedVersion, name: str, kind: str
) -> None:
    path = version / name
    for attempt in (path.open, path.read_bytes, path.pieces):
        with pytest.raises(ventifs.NotARegularFile, match=rf"^t:/{name}: {kind}$"):
            attempt()


def test_only_directories_are_listed(version: ventifs.ArchivedVersion) -> None:
    for attempt in (version / "nothing").iterdir, (version / "nothing").scan:
        with pytest.raises(ventifs.NotADirectory, match=r"^t:/nothing: a regular file, not a dir"):
            attempt()
    with pytest.raises(ventifs.VentifsError, match=r"^t:/etc: not a symbolic link$"):
        (version / "etc").readlink()


def test_messages_name_a_version_as_it_was_asked_for(archive: ventifs.Archive) -> None:
    with pytest.raises(ventifs.NoSuchPath, match=r"^t@~1:/none"):
        archive["t@~1"].open("none")
    with pytest.raises(ventifs.NoSuchPath, match=r"^t@1970:/none"):
        _ = archive.path("t@1970:/none").entry
    with pytest.raises(ventifs.NoSuchPath, match=r"^t@1970-01-01T00:00:00Z:/none"):
        archive.versions("t")[0].open("none")

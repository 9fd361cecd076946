"""Copies from a server: what is linked to is found again below the destination alone."""

import os
from pathlib import Path

import pytest

from tests.support.serve import Serve, ventifs
from ventifs.ninep.client.download import _reached


def test_a_directory_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "new" / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside" / "b").mkdir(parents=True)
    top = os.open(tmp_path / "new", os.O_RDONLY)
    with _reached(b"a/b", top) as fd:
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "new" / "a" / "b"))
    with _reached(b"", top) as fd:
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "new"))
    (tmp_path / "new" / "a").rename(tmp_path / "away")
    (tmp_path / "new" / "a").symlink_to(tmp_path / "outside")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError), _reached(b"a/b", top):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(top)


def test_names_of_one_file_are_names_of_one_file_again(tmp_path: Path) -> None:
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "b" / "first").write_bytes(b"one")
    for name in ("a/second", "z"):
        os.link(tmp_path / "tree" / "a" / "b" / "first", tmp_path / "tree" / name)
    ventifs(tmp_path, "init")
    ventifs(tmp_path, "archive", "tree", "--name", "t")
    with Serve(tmp_path, f"unix://{tmp_path}/s") as server:
        ventifs(tmp_path, "9p", "get", server.addresses[0], "/t/latest", "got")
    assert (tmp_path / "got" / "z").stat().st_nlink == 3

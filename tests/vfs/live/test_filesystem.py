"""Attaching to a live export: which names of trees lead where."""

import errno
import os
from collections.abc import Iterator

import pytest

from tests.support.live import Live, live_export
from ventifs.vfs.interface import Refused, User


@pytest.fixture
def live() -> Iterator[Live]:
    with live_export() as live:
        (live.path / "a/b").mkdir(parents=True)
        (live.path / "a/file").touch()
        (live.path / "link").symlink_to("a")
        yield live


@pytest.mark.parametrize(
    ("aname", "path"),
    [
        (b"export", "."),
        (b"/export", "."),
        (b"export:", "."),
        (b"export:/", "."),
        (b"export:/a", "a"),
        (b"/export:/a/b", "a/b"),
        (b"export://a//b/", "a/b"),
        (b"export:/a/file", "a/file"),
    ],
)
def test_an_aname_leads_to_a_file(live: Live, aname: bytes, path: str) -> None:
    root = live.run(live.directory.view("none").session().attach, User(b"", os.getuid()), aname)
    assert root.identity.number == os.stat(live.path / path).st_ino
    assert root.name == b"/"


@pytest.mark.parametrize(
    ("aname", "number"),
    [
        (b"", errno.EXDEV),
        (b"other", errno.EXDEV),
        (b"//export", errno.EXDEV),
        (b"export:/none", errno.ENOENT),
        (b"export:/a/../a", errno.ENOENT),
        (b"export:/a/./b", errno.ENOENT),
        (b"export:/link/b", errno.ENOTDIR),
        (b"export:/a/file/b", errno.ENOTDIR),
        (b"export:/" + b"x" * 256, errno.ENAMETOOLONG),
        (b"export:/a\0b", errno.EINVAL),
    ],
)
def test_an_aname_that_leads_nowhere_is_refused(live: Live, aname: bytes, number: int) -> None:
    with pytest.raises((Refused, OSError)) as refused:
        live.run(live.directory.view("none").session().attach, User(b"", os.getuid()), aname)
    assert getattr(refused.value, "errno", None) == number

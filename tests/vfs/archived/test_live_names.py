"""Live exports among the versions: names in `/` that lead to another process."""

import errno
import logging

import pytest

from tests.support.clock import Clock
from tests.support.talking import Talk
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.messages import Dialect
from ventifs.vfs.access.guard import GuardedFilesystem, Squash
from ventifs.vfs.archived.exports import Offered, OfferedSnapshot
from ventifs.vfs.archived.no_versions import NoVersions
from ventifs.vfs.archived.upper_directories import View
from ventifs.vfs.interface import Elsewhere, Filesystem, Refused, User

USER = User(b"me", 1000)


class Versions(NoVersions):
    """A catalog with one version each of `live` and `old`; nothing of them can be read."""

    def __init__(self, *, scores: bool = False) -> None:
        super().__init__()
        self.scores = scores
        offered = [
            Offered(name, b"2026-01-01T00:00:00Z", 1, name.encode(), b"", b"0" * 64)
            for name in ("live", "old")
        ]
        self.catalog.known = OfferedSnapshot(b"1", {each.name: [each] for each in offered})
        self.catalog.latest = lambda versions: len(versions) - 1  # type: ignore[method-assign]


def both(filesystem: View) -> list[Filesystem]:
    """A view, one of its sessions, and the same guarded."""
    guarded = GuardedFilesystem(filesystem, squash=Squash.ALL)
    return [filesystem, filesystem.session(), guarded, guarded.session()]


def names(filesystem: Filesystem) -> list[bytes]:
    """What `/` lists."""
    opened = filesystem.attach(USER, b"").open(0)
    return [name for _, name, _, _ in opened.entries(0)]


def test_live_names_are_listed_and_hide_versions() -> None:
    for filesystem in both(View(Versions(), lambda name: True, ["live", "zoo"])):
        assert names(filesystem) == [b".", b"..", b"live", b"old", b"zoo"]
        for aname in (b"live", b"/live", b"live:/", b"live:/a/b", b"live:"):
            with pytest.raises(Elsewhere) as caught:
                filesystem.attach(USER, aname)
            assert caught.value.export == "live"
        for aname in (b"live@latest", b"live@2026", b"live@latest:/a", b"live/a", b"li", b"zoo@x"):
            with pytest.raises(Refused) as refused:
                filesystem.attach(USER, aname)
            assert refused.value.errno == errno.ENOENT
        assert filesystem.attach(USER, b"old").name == b"/"


def test_only_names_that_a_peer_may_reach_are_there() -> None:
    view = View(Versions(), lambda name: name != "live", ["live", "zoo"])
    for filesystem in both(view):
        assert names(filesystem) == [b".", b"..", b"old", b"zoo"]
        for aname in (b"live", b"live:/a"):
            with pytest.raises(Refused) as refused:
                filesystem.attach(USER, aname)
            assert refused.value.errno == errno.ENOENT
        with pytest.raises(Refused) as refused:
            filesystem.attach(USER, b"").walk(b"live")
        assert refused.value.errno == errno.ENOENT


def test_scores_stand_first() -> None:
    view = View(Versions(scores=True), lambda name: True, ["a", "live"])
    assert names(view)[2:] == [b"score", b"a", b"live", b"old"]


def test_walking_to_one_is_refused_and_logged_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    view = View(NoVersions(), lambda name: True, ["live", "zoo"], clock)
    root = view.attach(USER, b"")

    def walk(name: bytes) -> None:
        with pytest.raises(Refused) as refused:
            root.walk(name)
        assert refused.value.errno == errno.EXDEV

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            walk(b"live")
        assert len(caplog.messages) == 1
        walk(b"zoo")
        assert len(caplog.messages) == 2
        clock.now_s += 61
        walk(b"live")
    assert caplog.messages[2] == (
        "a client looks from / into live export 'live'; it can mount aname=live"
    )


@pytest.mark.parametrize("dialect", [Dialect.PLAIN, Dialect.UNIX])
def test_listings_with_attributes_have_them_too(dialect: Dialect) -> None:
    talk = Talk(View(NoVersions(), lambda name: True, ["live"]), dialect)
    talk.ask(m.Topen(0, 0))
    [listed] = talk.codec.stats(talk.ask(m.Tread(0, 0, 8000)).data)
    assert listed.name == b"live"
    assert listed.mode >> 24 == 0x80
    refused = talk.ask(m.Twalk(0, 1, (b"live",)))
    assert isinstance(refused, m.Rerror)


def test_without_a_store_nothing_else_is_there() -> None:
    for filesystem in both(View(NoVersions(), lambda name: True, [])):
        assert names(filesystem) == [b".", b".."]
        for aname in (b"web", b"web@latest", b"score:01234567"):
            with pytest.raises(Refused) as refused:
                filesystem.attach(USER, aname)
            assert refused.value.errno == errno.ENOENT
        root = filesystem.attach(USER, b"/")
        assert root.attributes().mode == 0o40555
        assert root.walk(b"..").identity == root.identity

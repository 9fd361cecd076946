"""Every time that an archive holds crosses the wire, in each dialect as far as it can."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forging import commit_version, directory, file
from tests.support.stores import new_store
from tests.support.talking import Talk
from ventifs.ninep.client.attributes import status_of
from ventifs.ninep.protocol.messages import Dialect, Tgetattr, Tstat, Twalk
from ventifs.store import Store
from ventifs.tree.objects.records import TIME_NS_MAX, TIME_NS_MIN, Entry, Inline, clamped_ns
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split

SECOND = 10**9
TIMES = [TIME_NS_MIN, -SECOND, -1, 0, 1, 2**32 * SECOND, 2**63 - 1, 2**63, TIME_NS_MAX]


def _late(number: int, time_ns: int) -> Entry:
    plain = file(b"%d" % number, Inline(b"x"))
    return Entry(plain.name, plain.mode, 0, 0, time_ns, plain.detail, plain.xattrs, b"")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ArchiveFilesystem]:
    """Version `n`, with a file for each of the times."""
    split = Split.of(8 << 20)
    path = new_store(tmp_path / "store")
    with Store.open(path, "write") as store:
        children = [_late(number, clamped_ns(time_ns)) for number, time_ns in enumerate(TIMES)]
        commit_version(store, directory(store, b"", children))
    with Store.open(path, cache_bytes=split.clumps) as opened:
        yield ArchiveFilesystem(opened, split)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_times_of_an_archive(served: ArchiveFilesystem, dialect: Dialect) -> None:
    talk = Talk(served, dialect)
    when = (b"n", b"1970-01-01T00:00:00Z")
    for number, time_ns in enumerate(TIMES):
        walk = Twalk(0, number + 1, (*when, b"%d" % number))
        if dialect is Dialect.LINUX:
            told = talk.ask(walk, Tgetattr(number + 1, 0x7FF))
            assert status_of(told, dialect).mtime_ns == time_ns
        else:
            told = talk.ask(walk, Tstat(number + 1)).stat
            held = min(max(time_ns // SECOND, 0), 2**32 - 2)  # all ones asks for no change
            assert status_of(told, dialect).mtime_ns == held * SECOND
    talk.close()

"""A survey tells volumes and files in order, whatever becomes of a parser."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tests.support.imaging import told
from tests.support.memorydisk import MemoryDisk
from ventifs.image import survey as module
from ventifs.image.confinement import sandbox as apart
from ventifs.image.confinement.sandbox import ProcessLimits
from ventifs.image.disk import ImageError
from ventifs.image.survey import ReadFiles, Survey
from ventifs.image.survey_events import (
    Ended,
    Event,
    FoundName,
    Free,
    Inode,
    Noted,
    Volume,
    VolumeBatch,
    told_in,
)
from ventifs.image.volumes.window import Window

MIB = 1 << 20
DIRECTORY = Inode(mode=0o40755, uid=0, gid=0, mtime_ns=1, links=2)


def disk_of(*partitions: tuple[int, int]) -> MemoryDisk:
    """A disk of partitions with something like XFS in each: first MiB, MiBs."""
    table = bytearray(512)
    table[510:] = b"\x55\xaa"
    pieces = {}
    for place, (start, length) in enumerate(partitions):
        at = 446 + 16 * place
        table[at + 4] = 0x83
        table[at + 8 : at + 12] = (start * 2048).to_bytes(4, "little")
        table[at + 12 : at + 16] = (length * 2048).to_bytes(4, "little")
        pieces[start * MIB] = b"XFSB"
    return MemoryDisk(64 * MIB, {0: bytes(table), **pieces})


def reading(tell: Callable[[Window], Iterator[FoundName | Free | Ended]]) -> ReadFiles:
    def read_files(
        window: Window, filesystem: str, *, free: bool
    ) -> Iterator[FoundName | Free | Ended]:
        assert filesystem == "xfs"
        return tell(window)

    return read_files


def surveyed(
    disk: MemoryDisk, tell: Callable[[Window], Iterator[FoundName | Free | Ended]]
) -> list[Event]:
    with Survey(disk, free=True, read_files=reading(tell)) as survey:
        events = list(told(survey))
    check_order(events)
    return events


def check_order(events: list[Event]) -> None:
    inside = False
    for event in events:
        if isinstance(event, Volume | Noted):
            assert not inside
            inside = isinstance(event, Volume)
        else:
            assert inside
            inside = not isinstance(event, Ended)
    assert not inside


def file_at(*extents: tuple[int, int, int]) -> FoundName:
    inode = Inode(mode=0o100644, uid=0, gid=0, mtime_ns=1, links=1, size=9000, extents=extents)
    return FoundName(b"file", 12, inode)


def test_offsets_become_the_disks() -> None:
    def tell(window: Window) -> Iterator[FoundName | Free | Ended]:
        yield FoundName(b"", 2, DIRECTORY)
        yield file_at((0, 4096, 4096), (8192, 0, 4096))
        yield FoundName(b"other", 12, None)
        yield Free(((8192, 12288), (window.size - 4096, window.size)))
        yield Ended("", ("a note",))

    assert surveyed(disk_of((1, 2)), tell) == [
        Volume("1", False, ((MIB, 3 * MIB),), "83", "", "xfs"),
        FoundName(b"", 2, DIRECTORY),
        file_at((0, MIB + 4096, 4096), (8192, MIB, 4096)),
        FoundName(b"other", 12, None),
        Free(((MIB + 8192, MIB + 12288), (3 * MIB - 4096, 3 * MIB))),
        Ended("", ("a note",)),
    ]


def test_extents_are_split_where_a_volume_is() -> None:
    window = Window(MemoryDisk(MIB), [(8192, 12288), (0, 4096), (65536, 131072)])
    told = file_at((0, 2048, 16384), (20480, 0, 100))
    assert told.inode is not None
    node = module._on_disk(told, told.inode, window)
    assert node == file_at(
        (0, 10240, 2048), (2048, 0, 4096), (6144, 65536, 10240), (20480, 8192, 100)
    )
    assert list(module._free_on_disk(((0, 8192),), window)) == [(8192, 12288), (0, 4096)]


@pytest.mark.parametrize(
    ("extents", "left", "problem"),
    [
        ([(0, 2 * MIB, 1)], [], "bytes 2097152 to 2097153 are not in a volume of 2097152 bytes"),
        ([(0, 0, 10), (5, 100, 10)], [(0, MIB, 10)], "its extents overlap"),
        ([(10, 0, 10), (0, 100, 5)], [(10, MIB, 10)], "its extents overlap"),
        ([(0, 0, 0)], [], "its extents overlap"),
    ],
)
def test_extents_that_cannot_be_are_a_problem(
    extents: list[tuple[int, int, int]], left: list[tuple[int, int, int]], problem: str
) -> None:
    def tell(window: Window) -> Iterator[FoundName | Free | Ended]:
        yield file_at(*extents)

    node = surveyed(disk_of((1, 2)), tell)[1]
    assert isinstance(node, FoundName)
    assert node.inode is not None
    assert node.inode.extents == tuple(left)
    assert node.problem == problem


def test_files_take_no_more_than_their_volume_so_many_times() -> None:
    def tell(window: Window) -> Iterator[FoundName | Free | Ended]:
        for _ in range(70):
            yield file_at((0, 0, window.size))
        yield file_at()
        yield Ended()

    events = surveyed(disk_of((1, 2)), tell)
    problems = [event.problem for event in events if isinstance(event, FoundName)]
    assert problems == [""] * 64 + [module._TOO_MUCH] * 6 + [""]


def test_batches_are_no_more_than_some_megabytes_of_files() -> None:
    def tell(window: Window) -> Iterator[FoundName | Free | Ended]:
        for _ in range(9):
            yield file_at((0, 0, MIB))
        yield file_at((0, 0, 10 * MIB))
        yield Ended()

    with Survey(disk_of((1, 20)), free=False, read_files=reading(tell)) as survey:
        batches = [told_in(event.body) for event in survey if isinstance(event, VolumeBatch)]
    # Events wait no longer than 50 ms for others, so there may be more batches.
    sizes = [
        sum(
            node.inode.extents[0][2] for node in batch if isinstance(node, FoundName) and node.inode
        )
        for batch in batches
    ]
    assert max(sizes) <= 11 * MIB
    assert sum(sizes) == 19 * MIB


def test_a_volume_with_nothing_known_inside_is_told_and_ends() -> None:
    disk = MemoryDisk(64 * MIB, {0: disk_of((1, 2)).read(0, 512)})
    assert surveyed(disk, lambda window: iter(())) == [
        Volume("1", False, ((MIB, 3 * MIB),), "83"),
        Ended(),
    ]


@pytest.mark.parametrize("size", [0, 5, MIB])
def test_a_disk_of_nothing_has_no_volumes(size: int) -> None:
    assert surveyed(MemoryDisk(size), lambda window: iter(())) == []


def _crash(window: Window) -> Iterator[FoundName | Free | Ended]:
    for number in range(20_000):
        yield FoundName(b"a", number, None)
    if window.ranges[0][0] == 4 * MIB:
        ctypes.string_at(0)
    yield Ended()


def test_a_crash_costs_one_volume_the_rest() -> None:
    events = surveyed(disk_of((1, 2), (4, 2), (8, 2)), _crash)
    assert [event for event in events if isinstance(event, Ended)] == [
        Ended(),
        Ended("the parser crashed (Segmentation fault)"),
        Ended(),
    ]
    assert sum(isinstance(event, FoundName) for event in events) > 50_000


def test_an_exception_costs_one_volume_the_rest() -> None:
    def tell(window: Window) -> Iterator[FoundName | Free | Ended]:
        yield FoundName(b"", 2, DIRECTORY)
        raise ImageError("no such block")

    assert surveyed(disk_of((1, 2), (4, 2)), tell)[1::3] == [FoundName(b"", 2, DIRECTORY)] * 2


def test_a_loop_costs_one_volume_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STALL_S", 1)

    def tell(window: Window) -> Iterator[FoundName | Free | Ended]:
        while window.ranges[0][0] == MIB:
            pass
        yield Ended("", ("read",))

    events = surveyed(disk_of((1, 2), (4, 2)), tell)
    assert [event for event in events if isinstance(event, Ended)] == [
        Ended("the parser took too much processor time and was stopped"),
        Ended("", ("read",)),
    ]


def test_events_after_the_end_are_not_told_and_those_of_others_stop_it() -> None:
    def tell(window: Window) -> Iterator[FoundName | Free | Ended]:
        if window.ranges[0][0] == MIB:
            yield Ended()
            yield FoundName(b"", 2, DIRECTORY)
        else:
            yield Noted("damaged")  # type: ignore[misc]
            yield Ended()

    events = surveyed(disk_of((1, 2), (4, 2)), tell)
    assert [event for event in events if not isinstance(event, Volume)] == [
        Ended(),
        Ended("the parser told what it cannot know"),
    ]


@pytest.fixture
def whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events wait for others however long that takes, so that all of a volume's come together."""
    monkeypatch.setattr(apart, "_BATCH_S", 3600)


@pytest.mark.usefixtures("whole_batches")
@pytest.mark.parametrize("garbage", [b"\xc1", b"\x94\x07\xc4\x01a\x01\xc0"])
def test_garbage_costs_one_volume_the_rest(garbage: bytes) -> None:
    def tell(window: Window) -> Iterator[FoundName | Free | Ended]:
        yield FoundName(b"", 2, DIRECTORY)
        if window.ranges[0][0] == MIB:
            yield msgspec.Raw(garbage)  # type: ignore[misc]
        yield Ended("", ("read",))

    events = surveyed(disk_of((1, 2), (4, 2)), tell)
    assert [event for event in events if not isinstance(event, Volume)] == [
        Ended("the parser told what it cannot know"),
        FoundName(b"", 2, DIRECTORY),
        Ended("", ("read",)),
    ]


@pytest.mark.usefixtures("whole_batches")
def test_a_child_that_dies_within_a_batch_costs_one_volume_the_rest() -> None:
    def tell(window: Window) -> Iterator[FoundName | Free | Ended]:
        yield FoundName(b"", 2, DIRECTORY)
        if window.ranges[0][0] == MIB:
            (pipe,) = apart._ends
            os.write(pipe, b"\0\xff\0\0\0half")
            os.abort()
        yield Ended("", ("read",))

    events = surveyed(disk_of((1, 2), (4, 2)), tell)
    assert [event for event in events if not isinstance(event, Volume)] == [
        Ended("the parser crashed (Aborted)"),
        FoundName(b"", 2, DIRECTORY),
        Ended("", ("read",)),
    ]


def test_a_crash_while_volumes_are_looked_for_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(disk: MemoryDisk) -> Iterator[Volume]:
        yield from ()
        os.abort()

    monkeypatch.setattr(module, "find_volumes", find)
    assert surveyed(disk_of((1, 2)), lambda window: iter(())) == [
        Noted("not all volumes are told: the parser crashed (Aborted)")
    ]


def test_if_the_relay_itself_dies_the_volume_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(*_: object) -> Iterator[Event]:
        for number in range(20_000):
            yield FoundName(b"a", number, None)
        os.abort()

    monkeypatch.setattr(module, "_inside", inside)
    events = surveyed(disk_of((1, 2)), lambda window: iter(()))
    assert events[-1] == Ended("the parser crashed (Aborted)")


def test_a_disk_that_cannot_be_read_is_noted() -> None:
    disk = disk_of((1, 2), (4, 2))
    disk.broken = range(MIB, MIB + 1)
    events = surveyed(disk, lambda window: iter(()))
    assert events == [
        Noted("partition 1 cannot be read: /memory.img cannot be read at 1048576"),
        Volume("1", False, ((MIB, 3 * MIB),), "83"),
        Ended(),
        Volume("2", False, ((4 * MIB, 6 * MIB),), "83", "", "xfs"),
        Ended(),
    ]
    disk.broken = range(1)
    assert [type(event) for event in surveyed(disk, lambda window: iter(()))] == [Noted, Noted]


def test_it_starts_at_once_and_ends_when_left() -> None:
    pipe = os.pipe()

    def tell(window: Window) -> Iterator[FoundName | Free | Ended]:
        os.write(pipe[1], b"here")
        while True:
            signal.pause()
            yield Ended()

    with Survey(disk_of((1, 2)), free=False, read_files=reading(tell)):
        os.close(pipe[1])
        assert os.read(pipe[0], 4) == b"here"  # nobody has asked for an event
    assert os.read(pipe[0], 4) == b""  # whoever could write is gone
    os.close(pipe[0])


@pytest.mark.parametrize(("size", "seconds"), [(0, 60), (10 << 30, 100), (1 << 60, 4 * 3600)])
def test_the_time_allowed_grows_with_the_disk_up_to_a_limit(size: int, seconds: int) -> None:
    assert module._limits(size) == ProcessLimits(1 << 30, seconds, 30)

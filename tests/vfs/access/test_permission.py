"""Who may do what, against what Linux itself answers."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.permissions import NO_ID, acl_of, compare, compare_nobody
from ventifs.vfs.access.permission import NOBODY, READ, SEARCH, Credentials, nobody, permits


def may(who: Credentials, wanted: int, mode: int, acl: bytes | None = None) -> bool:
    return permits(who, wanted, mode, 1000, 100, lambda: acl)


@pytest.mark.parametrize(
    ("who", "mode", "read"),
    [
        (Credentials(0), 0o000, True),
        (Credentials(1000), 0o400, True),
        (Credentials(1000), 0o077, False),
        (Credentials(1001, frozenset({100})), 0o040, True),
        (Credentials(1001, frozenset({100})), 0o704, False),
        (Credentials(1001, frozenset({7})), 0o004, True),
        (Credentials(1001), 0o770, False),
        (NOBODY, 0o004, True),
        (NOBODY, 0o440, False),
        (Credentials(1000, frozenset({100})), 0o044, False),
    ],
)
def test_owner_then_group_then_other(who: Credentials, mode: int, read: bool) -> None:
    assert may(who, READ, mode) is read
    assert may(who, SEARCH, mode >> 2) is read


def test_both_are_needed_when_both_are_wanted() -> None:
    assert [may(NOBODY, READ | SEARCH, mode) for mode in (4, 1, 5)] == [False, False, True]


def test_a_list_is_not_asked_for_when_it_cannot_matter() -> None:
    def asked() -> bytes:
        raise AssertionError("the list was asked for")

    assert permits(Credentials(0), READ, 0, 1000, 100, asked)
    assert permits(Credentials(1000), READ, 0o400, 1000, 100, asked)


def test_the_group_bits_of_a_file_with_a_list_are_its_mask() -> None:
    acl = acl_of(
        [(1, 6, NO_ID), (2, 6, 7), (4, 0, NO_ID), (8, 4, 300), (16, 4, NO_ID), (32, 0, NO_ID)]
    )
    mode = 0o640
    assert may(Credentials(7), READ, mode, acl)
    assert not may(Credentials(7), 2, mode, acl)  # masked
    assert not may(Credentials(8, frozenset({100})), READ, mode, acl)  # though the mode says so
    assert may(Credentials(8, frozenset({100, 300})), READ, mode, acl)
    assert not may(Credentials(8), READ, mode, acl)


@pytest.mark.parametrize(
    "acl",
    [
        b"",
        b"\2\0\0\0",
        b"\1\0\0\0" + bytes(8),
        b"junk",
        bytes(1000),
        acl_of([(32, 7, NO_ID)])[:-1],
        acl_of([(3, 7, NO_ID)]),
    ],
)
def test_a_list_that_cannot_be_understood_gives_nothing(acl: bytes) -> None:
    assert not may(Credentials(5, frozenset({100})), READ, 0o777, acl)
    assert may(Credentials(0), READ, 0, acl)


def listed(owning: int, *named: tuple[int, int, int], other: int = 4) -> bytes:
    """A list with a full mask: what the owning group gets, and named entries."""
    return acl_of(
        [
            (1, 6, NO_ID),
            *[entry for entry in named if entry[0] == 2],
            (4, owning, NO_ID),
            *[entry for entry in named if entry[0] == 8],
            (16, 7, NO_ID),
            (32, other, NO_ID),
        ]
    )


# What nobody may read: of which groups it is in the tree, the file's group, its mode, its list.
@pytest.mark.parametrize(
    ("gids", "group", "mode", "acl", "read"),
    [
        ((), 65534, 0o604, None, False),  # its own group is kept out
        ((), 65534, 0o640, None, False),  # and gets nothing
        ((), 65534, 0o644, None, True),
        ((), 0, 0o604, None, True),
        ((100,), 100, 0o604, None, False),  # a group that the tree puts it into
        ((100,), 100, 0o640, None, False),
        ((100,), 101, 0o604, None, True),
        ((), 0, 0o674, listed(4, (8, 0, 65534)), False),  # a list that keeps its group out
        ((), 0, 0o674, listed(4, (8, 4, 65534), other=0), False),
        ((), 0, 0o674, listed(4, (8, 4, 65534)), True),
        ((), 65534, 0o674, listed(0), False),
        ((100,), 0, 0o674, listed(4, (8, 0, 100)), False),
        ((), 0, 0o674, listed(4, (8, 0, 100)), True),
        ((100,), 0, 0o674, listed(4, (8, 0, 100), (8, 4, 65534)), True),  # as Linux: one that gives
        ((), 0, 0o674, listed(4, (2, 0, 65534)), False),
        ((), 0, 0o674, listed(0, (2, 4, 65534), other=0), True),  # named itself, not by a group
        ((), 0, 0o604, listed(0, (8, 0, 65534)), True),  # as Linux: an empty mask silences the list
        (None, 0, 0o644, None, True),  # its groups cannot be known
        (None, 7, 0o604, None, False),
        (None, 7, 0o674, listed(4, (8, 0, 99), (8, 4, 98)), False),
        (None, 7, 0o674, listed(4, (8, 4, 99)), True),
    ],
)
def test_groups_take_from_nobody_and_never_give(
    gids: tuple[int, ...] | None, group: int, mode: int, acl: bytes | None, read: bool
) -> None:
    who = nobody(None if gids is None else frozenset(gids))
    assert permits(who, READ, mode, 0, group, lambda: acl) is read


def test_nobody_owns_what_is_its_own() -> None:
    assert permits(NOBODY, READ, 0o400, 65534, 65534, lambda: None)
    assert not permits(NOBODY, READ, 0o044, 65534, 0, lambda: None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_nobody_gets_what_linux_gives_with_and_without_groups(kind: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = Path(directory, kind)
        path.touch() if kind == "file" else path.mkdir()
        assert processes.run(compare_nobody, path, 1500) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_linux_answers_the_same() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to others
        Path(directory).chmod(0o755)
        path = Path(directory, "file")
        path.touch()
        assert processes.run(compare, path, 1500) == 0

"""Who may do what, against what Linux itself answers."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.permissions import NO_ID, acl_of, compare
from ventifs.ninep.permission import NOBODY, READ, SEARCH, Identity, permits


def may(who: Identity, wanted: int, mode: int, acl: bytes | None = None) -> bool:
    return permits(who, wanted, mode, 1000, 100, lambda: acl)


@pytest.mark.parametrize(("who", "mode", "read"), [
    (Identity(0), 0o000, True), (Identity(1000), 0o400, True), (Identity(1000), 0o077, False),
    (Identity(1001, frozenset({100})), 0o040, True),
    (Identity(1001, frozenset({100})), 0o704, False),
    (Identity(1001, frozenset({7})), 0o004, True), (Identity(1001), 0o770, False),
    (NOBODY, 0o004, True), (NOBODY, 0o440, False),
    (Identity(1000, frozenset({100})), 0o044, False),
])  # fmt: skip
def test_owner_then_group_then_other(who: Identity, mode: int, read: bool) -> None:
    assert may(who, READ, mode) is read
    assert may(who, SEARCH, mode >> 2) is read


def test_both_are_needed_when_both_are_wanted() -> None:
    assert [may(NOBODY, READ | SEARCH, mode) for mode in (4, 1, 5)] == [False, False, True]


def test_a_list_is_not_asked_for_when_it_cannot_matter() -> None:
    def asked() -> bytes:
        raise AssertionError("the list was asked for")

    assert permits(Identity(0), READ, 0, 1000, 100, asked)
    assert permits(Identity(1000), READ, 0o400, 1000, 100, asked)


def test_the_group_bits_of_a_file_with_a_list_are_its_mask() -> None:
    acl = acl_of([(1, 6, NO_ID), (2, 6, 7), (4, 0, NO_ID), (8, 4, 300), (16, 4, NO_ID),
                  (32, 0, NO_ID)])  # fmt: skip
    mode = 0o640
    assert may(Identity(7), READ, mode, acl)
    assert not may(Identity(7), 2, mode, acl)  # masked
    assert not may(Identity(8, frozenset({100})), READ, mode, acl)  # though the mode says so
    assert may(Identity(8, frozenset({100, 300})), READ, mode, acl)
    assert not may(Identity(8), READ, mode, acl)


@pytest.mark.parametrize("acl", [
    b"", b"\2\0\0\0", b"\1\0\0\0" + bytes(8), b"junk", bytes(1000),
    acl_of([(32, 7, NO_ID)])[:-1], acl_of([(3, 7, NO_ID)]),
])  # fmt: skip
def test_a_list_that_cannot_be_understood_gives_nothing(acl: bytes) -> None:
    assert not may(Identity(5, frozenset({100})), READ, 0o777, acl)
    assert may(Identity(0), READ, 0, acl)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_linux_answers_the_same() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to others
        Path(directory).chmod(0o755)
        path = Path(directory, "file")
        path.touch()
        assert processes.run(compare, path, 1500) == 0

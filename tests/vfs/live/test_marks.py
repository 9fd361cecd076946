"""Marks: what is put into one is in it, whatever is put beside."""

import stat

from hypothesis import given
from hypothesis import strategies as st

from ventifs.vfs.interface import DIRECTORY, FILE, SYMLINK
from ventifs.vfs.live.marks import (
    handle_in,
    identity_in,
    mark_of,
    name_in,
    number_in,
    same,
    type_in,
    version_of,
    with_handle,
    with_name,
)

MODES = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK])
NUMBERS = st.integers(1, (1 << 64) - 2)
NAMES = st.binary(min_size=1, max_size=255)


@given(MODES, st.integers(0, 1 << 62), NUMBERS, NAMES, st.binary(max_size=132), NAMES)
def test_a_mark_keeps_everything(
    kind: int, birth_ns: int, number: int, name: bytes, handle: bytes, new: bytes
) -> None:
    mark = mark_of(kind | 0o644, birth_ns, number, name)
    assert (handle_in(mark), name_in(mark), number_in(mark)) == (b"", name, number)
    found = with_handle(mark, handle)
    renamed = with_name(found, new)
    for each, its_name in ((found, name), (renamed, new)):
        assert (handle_in(each), name_in(each), number_in(each)) == (handle, its_name, number)
        assert type_in(each) == kind >> 12
        assert same(each) == same(mark)
        assert identity_in(each) == identity_in(mark)
    identity = identity_in(mark)
    kinds = {stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}
    assert identity == (kinds.get(kind, FILE), version_of(birth_ns), number)


@given(st.integers(-(1 << 62), 1 << 62), st.integers(0, 999_999_999))
def test_a_version_is_never_0_and_differs_within_a_second(birth_ns: int, later: int) -> None:
    assert 0 < version_of(birth_ns) < 1 << 32
    second = birth_ns // 10**9 * 10**9
    if birth_ns % 10**9 != later:
        versions = {version_of(birth_ns), version_of(second + later)}
        assert len(versions) == 2 or 1 in versions

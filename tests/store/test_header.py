"""The store header: read back as written, damage always noticed, the future always refused."""

import struct
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.damage import damaged, flip
from ventifs.errors import Corrupt, VentifsError
from ventifs.store.files import Files
from ventifs.store.header import (
    FORMAT_VERSION,
    HEADER_NAME,
    HEADER_SIZE,
    RECLAIMED,
    NotAStore,
    StoreHeader,
    Unsupported,
    decode_header,
    encode_header,
    header_under_lock,
    read_header,
    require_writable,
    write_header,
)

HEADER = StoreHeader(store_id=bytes(range(16)), created_ns=1_700_000_000_000_000_000)
WHOLE = encode_header(HEADER)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
HEADERS = st.builds(
    StoreHeader,
    store_id=st.binary(min_size=16, max_size=16),
    created_ns=U64,
    arena_size=st.integers(1, 3 << 30),
    chunk_min=U32,
    chunk_average=U32,
    chunk_max=U32,
    chunk_seed=st.binary(min_size=32, max_size=32),
    compatible=U64,
    read_only_compatible=U64,
    reserve=U64,
)


def resealed(offset: int, field: bytes) -> bytes:
    """A header with another field and a checksum that holds, as a later version would write."""
    data = bytearray(WHOLE)
    data[offset : offset + len(field)] = field
    data[-32:] = blake3(bytes(data[:-32])).digest()
    return bytes(data)


@given(HEADERS)
def test_a_header_is_read_back_as_it_was_written(header: StoreHeader) -> None:
    assert len(encode_header(header)) == HEADER_SIZE
    assert decode_header(encode_header(header)) == header


@given(damaged(WHOLE) | st.binary(max_size=300) | st.binary(min_size=256, max_size=256))
def test_any_other_bytes_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_header(data)


@pytest.mark.parametrize("offset", range(HEADER_SIZE))
def test_a_changed_byte_is_noticed_wherever_it_is(offset: int) -> None:
    data = bytearray(WHOLE)
    data[offset] ^= 0x10
    with pytest.raises(Corrupt):
        decode_header(bytes(data))


@pytest.mark.parametrize(
    ("offset", "field", "named"),
    [
        (16, struct.pack("<I", FORMAT_VERSION + 1), f"format {FORMAT_VERSION + 1}"),
        (20, struct.pack("<H", 2), "hash 2"),
        (40, struct.pack("<Q", 1), "^the store is encrypted, which this ventifs does not know"),
        (40, struct.pack("<Q", 3), "^the store is encrypted and remote, which"),
        (40, struct.pack("<Q", 1 << 40), "^the store has the features 0x10000000000, which"),
        (40, struct.pack("<Q", 6), "^the store is remote and has the features 0x4, which"),
        (0, b"another program ", "upgrade"),
    ],
    ids=["version", "hash", "encrypted", "two names", "no name", "a name and none", "magic"],
)
def test_what_later_versions_write_is_unsupported(offset: int, field: bytes, named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        decode_header(resealed(offset, field))


def test_an_unknown_read_only_feature_forbids_writing_alone(tmp_path: Path) -> None:
    assert decode_header(WHOLE).writable
    header = decode_header(resealed(32, struct.pack("<Q", 2)))
    assert not header.writable
    with pytest.raises(Unsupported, match=f"^{tmp_path}: the store has the features 0x2, which"):
        require_writable(tmp_path, header)


@pytest.mark.parametrize("bit", [0, 63])
def test_a_compatible_feature_known_or_not_is_ignored(bit: int) -> None:
    assert decode_header(resealed(24, struct.pack("<Q", 1 << bit))).writable


def test_features_have_names() -> None:
    assert decode_header(WHOLE).features == []
    assert decode_header(resealed(24, struct.pack("<QQ", 1, 1))).features == ["parity", "reclaimed"]
    assert replace(HEADER, incompatible=7).features == ["encrypted", "remote", "0x4"]


def test_a_program_that_does_not_know_reclaiming_only_reads_a_new_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = StoreHeader.new(4 << 20)
    require_writable(tmp_path, header)
    monkeypatch.setattr("ventifs.store.header.KNOWN_READ_ONLY_COMPATIBLE", 0)
    with pytest.raises(Unsupported, match="the store is reclaimed, which this ventifs can only"):
        require_writable(tmp_path, header)


def test_new_headers_have_ids_of_their_own() -> None:
    one, two = StoreHeader.new(4 << 20), StoreHeader.new(8 << 20, 7)
    assert one.store_id != two.store_id
    assert (one.arena_size, two.arena_size) == (4 << 20, 8 << 20)
    assert (one.reserve, two.reserve) == (0, 7)
    assert len(one.store_id) == 16
    assert one.features == ["reclaimed"]


def test_a_header_is_read_again_under_the_lock(tmp_path: Path) -> None:
    write_header(tmp_path, HEADER, Files())
    upgraded = replace(HEADER, read_only_compatible=RECLAIMED, reserve=1 << 20)
    write_header(tmp_path, upgraded, Files())
    assert header_under_lock(tmp_path, HEADER) == upgraded
    write_header(tmp_path, replace(HEADER, read_only_compatible=2), Files())
    with pytest.raises(Unsupported, match="upgrade ventifs to write"):
        header_under_lock(tmp_path, HEADER)
    write_header(tmp_path, replace(HEADER, incompatible=2), Files())
    with pytest.raises(Unsupported, match="the store is remote"):
        header_under_lock(tmp_path, HEADER)
    write_header(tmp_path, replace(HEADER, store_id=bytes(16)), Files())
    with pytest.raises(VentifsError, match="another store has taken this one's place"):
        header_under_lock(tmp_path, HEADER)


def test_a_written_header_is_read_from_its_directory(tmp_path: Path) -> None:
    write_header(tmp_path, HEADER, Files())
    assert read_header(tmp_path) == HEADER
    assert [path.name for path in tmp_path.iterdir()] == [HEADER_NAME]


def test_what_is_no_store_is_told_apart_from_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match=f"{tmp_path}: not a ventifs store"):
        read_header(tmp_path)
    with pytest.raises(NotAStore, match="there is no such store"):
        read_header(tmp_path / "absent")
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(NotAStore, match="not a ventifs store"):
        read_header(file)


def test_errors_name_the_path_and_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / HEADER_NAME
    path.write_bytes(resealed(16, struct.pack("<I", 9)))
    with pytest.raises(Unsupported, match=rf"{tmp_path}: .*upgrade"):
        read_header(tmp_path)
    write_header(tmp_path, HEADER, Files())
    flip(path, 70)
    with pytest.raises(
        Corrupt, match=rf"{path}: .*put back a copy of this store's, how.* 'ventifs upgrade'"
    ):
        read_header(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(VentifsError, match=f"{path}: is a directory"):
        read_header(tmp_path)

"""The golden vectors: encoders must give exactly these bytes, decoders exactly these values.

The bytes were laid out by hand by tools/vectors_store.py. A test that fails here means that stores
written by earlier versions can no longer be read, or that this version writes what others cannot.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.support.arenafiles import COMPRESSOR, DECOMPRESSOR
from tests.support.stores import findings
from tests.support.vectors import VECTORS, load_vectors, unhex
from tools.vectors_store import outputs
from ventifs.store import Store, parse_score, score_of
from ventifs.store import arena as arena_format
from ventifs.store.arena import Arena, Trailer
from ventifs.store.clump import (
    ClumpCodec,
    ClumpKind,
    Packed,
    decompress,
    encode,
    encode_gap,
    pack,
    parse_head,
    verify,
)
from ventifs.store.header import (
    StoreHeader,
    Unsupported,
    decode_header,
    encode_header,
)
from ventifs.store.journal import (
    Changes,
    Commit,
    CommitCounters,
    Record,
    decode_changes,
    decode_commit,
    encode_changes,
    encode_commit,
)

STRUCTURES = load_vectors("store/structures.json")
GOLDEN = load_vectors("store/store-v1.json")


def vector(name: str) -> tuple[dict[str, Any], bytes]:
    fields = STRUCTURES[name]
    return fields, bytes.fromhex(fields["hex"])


@pytest.mark.parametrize(("name", "text"), outputs().items())
def test_files_are_what_the_generator_makes(name: str, text: str) -> None:
    assert (VECTORS / "store" / name).read_text() == text


@pytest.mark.parametrize(
    "name", ["store_header", "store_header_reclaimed", "store_header_features"]
)
def test_store_header(name: str) -> None:
    fields, data = vector(name)
    header = StoreHeader(
        store_id=bytes.fromhex(STRUCTURES["store_header"]["store_id"]),
        created_ns=STRUCTURES["store_header"]["created_ns"],
        arena_size=STRUCTURES["store_header"]["arena_size"],
        compatible=fields.get("compatible", 0),
        read_only_compatible=fields.get("read_only_compatible", 0),
        reserve=fields.get("reserve", 0),
    )
    assert encode_header(header) == data
    assert decode_header(data) == header
    assert header.writable == (name != "store_header_features")


def test_store_header_with_an_incompatible_feature_is_refused() -> None:
    _, data = vector("store_header_incompatible")
    with pytest.raises(Unsupported, match="the store is remote"):
        decode_header(data)


def test_arena_header(tmp_path: Path) -> None:
    fields, data = vector("arena_header")
    store_id, arena_id = unhex([fields["store_id"], fields["arena"]])
    assert arena_format.encode_header(store_id, arena_id, fields["created_ns"]) == data
    path = tmp_path / f"{arena_id.hex()}.arena"
    path.write_bytes(data)
    Arena.open(path).check_header(store_id)


@pytest.mark.parametrize("name", ["clump_raw", "clump_zstd"])
def test_clump(name: str) -> None:
    fields, data = vector(name)
    blocks, raw = unhex(fields["blocks"]), bytes.fromhex(fields["raw"])
    place: dict[str, Any] = {"arena": bytes.fromhex(fields["arena"]), "offset": fields["offset"]}
    listed = [(score_of(block), len(block)) for block in blocks]
    packed = Packed(ClumpCodec(fields["codec"]), len(raw), bytes.fromhex(fields["payload"]))
    head = encode(ClumpKind(fields["kind"]), listed, packed, **place)
    assert head.listed + bytes(packed.payload) == data
    if packed.codec is ClumpCodec.RAW:  # what zstd makes of the other may change with its version
        assert pack(raw, COMPRESSOR) == packed

    parsed = parse_head(data)
    assert parsed == head
    assert (parsed.kind, parsed.codec, parsed.blocks) == (fields["kind"], fields["codec"], listed)
    payload = data[len(parsed.listed) :]
    verify(parsed, payload, **place)
    assert decompress(parsed, payload, DECOMPRESSOR) == raw


def test_gap() -> None:
    fields, data = vector("gap")
    arena, offset = bytes.fromhex(fields["arena"]), fields["offset"]
    assert encode_gap(fields["length"], arena=arena, offset=offset) == data
    head = parse_head(data)
    assert (head.kind, head.size, head.blocks) == (ClumpKind.GAP, fields["length"], [])
    verify(head, b"anything", arena=arena, offset=offset)


def test_catalog_payload() -> None:
    fields, data = vector("catalog")
    puts = [Record(*unhex(parts)) for parts in fields["puts"]]
    changes = Changes(puts, unhex(fields["deletes"]))
    assert list(encode_changes(changes, 4096)) == [data]
    assert decode_changes([data]) == changes
    assert [record.digest() for record in puts] == unhex(fields["digests"])


def test_catalog_payload_with_a_drop() -> None:
    fields, data = vector("catalog_drop")
    drops = {bytes.fromhex(arena): CommitCounters(*sums) for arena, sums in fields["drops"]}
    puts = [Record(*unhex(parts)) for parts in fields["puts"]]
    changes = Changes(puts, unhex(fields["deletes"]), drops)
    assert list(encode_changes(changes, 4096)) == [data]
    assert decode_changes([data]) == changes


def test_commit_payload() -> None:
    fields, data = vector("commit")
    relies_on = [(bytes.fromhex(arena), length) for arena, length in fields["relies_on"]]
    commit = Commit(
        fields["time_ns"],
        fields["catalog_length"],
        fields["records"],
        CommitCounters(*fields["counters"]),
        relies_on,
    )
    assert encode_commit(commit) == data
    assert decode_commit(data) == commit


def test_directory_and_trailer(tmp_path: Path) -> None:
    fields, data = vector("trailer")
    listed = [
        (at, parse_head(bytes.fromhex(head))) for at, head in STRUCTURES["directory"]["clumps"]
    ]
    _, directory = vector("directory")
    start = arena_format.encode_directory_start(bytes.fromhex(STRUCTURES["directory"]["header"]))
    encoded = [arena_format.encode_entry(at, head) for at, head in listed]
    assert start + b"".join(encoded) == directory

    trailer = Trailer(
        fields["directory_offset"],
        fields["directory_length"],
        fields["clumps"],
        fields["blocks"],
        bytes.fromhex(fields["fingerprint"]),
    )
    assert arena_format.encode_trailer(trailer, bytes.fromhex(fields["arena"])) == data
    path = tmp_path / f"{fields['arena']}.arena"
    path.write_bytes(vector("arena_header")[1] + directory + data)
    arena = Arena.open(path)
    assert arena.trailer() == trailer
    assert list(arena.directory(trailer)) == listed


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    for name, data in GOLDEN["files"].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes.fromhex(data))
    return tmp_path


def test_golden_store_opens_and_holds_what_it_held(golden: Path) -> None:
    with Store.open(golden, "write") as store:
        for name, block in GOLDEN["blocks"].items():
            assert store.get(parse_score(name)) == bytes.fromhex(block)
        records = [
            Record(unhex(parts)[0], unhex(parts)[1], unhex(parts)[2]) for parts in GOLDEN["records"]
        ]
        assert store.records() == records
        stats = store.stats()
        assert {name: getattr(stats, name) for name in GOLDEN["stats"]} == GOLDEN["stats"]
    assert findings(golden) == []


def test_golden_store_can_be_written_on_without_changing_what_is_there(golden: Path) -> None:
    with Store.open(golden, "write") as store:
        score, new = store.put(b"written by today's version")
        assert new
        assert store.put(b"hello") == (score_of(b"hello"), False)
        store.commit([(b"name/web03", b"third")])
    with Store.open(golden) as store:
        assert bytes(store.get(score)) == b"written by today's version"
        assert [record.value for record in store.records(b"name/web03")] == [b"third"]
    for name, data in GOLDEN["files"].items():
        assert (golden / name).read_bytes().startswith(bytes.fromhex(data))
    assert len(list((golden / "arenas").glob("*/*.arena"))) == 2
    assert findings(golden) == []

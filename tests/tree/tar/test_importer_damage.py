"""Whatever a tar stream holds, it gives a root or one line that says what is wrong."""

import io
import random
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stores import new_store
from tests.support.tars import END, PACKED, directory, link, member, packed, taken, with_fields
from tests.support.trees import noise
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.objects.records import Entry
from ventifs.tree.tar.decompress import Unpacked
from ventifs.tree.tar.importer import TarArchiver

GOOD = (
    directory("d")
    + member("d/f", noise(3000))
    + link("d/g", "d/f")
    + member("x" * 120, b"1", pax={"SCHILY.xattr.user.a": "b", "mtime": "1.5"})
    + member("s", noise(5000), pax={"GNU.sparse.size": "90000", "GNU.sparse.map": "40960,5000"})
    + member("y" * 120, b"2", form=1)
    + END
)


def sized(number: int) -> dict[int, bytes]:
    """A size field in base 256."""
    return {124: (number % 256**12 | (1 << 95 if number >= 0 else 0)).to_bytes(12, "big")}


def pax(body: bytes, size: int | None = None) -> bytes:
    """An extended header with any body, which may say another size."""
    block = member("././@PaxHeader", body, kind=b"x", form=0)
    return block if size is None else with_fields(block, sized(size))


FILE = member("f", b"1")
BAD = {
    "empty": (b"", "empty"),
    "text": (b"no tar at all\n" * 100, "not a tar archive"),
    "short text": (b"x", "ends early|not a tar"),
    "noise": (noise(5000), "not a tar archive"),
    "a disk": (bytes(1024) + noise(5000), "not a tar archive.*as many disks do"),
    "no end": (FILE, "ends early, without the zeros"),
    "half a zero block": (FILE + bytes(256), "ends early"),
    "half a header": (FILE + FILE[:300], "ends early"),
    "half a content": (member("f", noise(9000))[:4000], "ends early"),
    "no padding": (member("f", noise(9000))[:9512], "ends early"),
    "half a pax header": (pax(b"20 path=" + b"x" * 900)[:1000], "ends early"),
    "pax header and no more": (pax(b"9 path=a\n"), "ends early"),
    "pax header and the end": (pax(b"9 path=a\n") + END, "damaged"),
    "damaged header": (FILE + b"x" + FILE[1:] + END, "damaged near byte 1536: a header"),
    "negative size": (with_fields(FILE, sized(-512)) + END, "damaged"),
    "back to the start": (with_fields(FILE, sized(-1024)) + END, "damaged"),
    "size of an exabyte": (with_fields(FILE, sized(1 << 60)) + END, "ends early"),
    "huge pax header": (pax(b"", 1 << 40) + END, "headers of more than 32 MiB"),
    "huge long name": (
        with_fields(member("x", kind=b"L", form=0), sized(1 << 33)) + END,
        "more than 32 MiB",
    ),
    "very negative pax header": (pax(b"", -5000) + FILE + END, "headers of more"),
    "pax headers without end": (pax(b"9 path=a\n") * 5000 + FILE + END, "damaged"),
    "global headers without end": (
        b"".join(
            tarfile.TarInfo.create_pax_global_header({f"k{number}": "x" * 9000}) + FILE
            for number in range(200)
        ),
        "global headers of more than 1 MiB",
    ),
    "pax record of no length": (pax(b"0 path=a\n") + FILE + END, "damaged"),
    "pax record of a huge length": (pax(b"9" * 300 + b" path=a\n") + FILE + END, None),
    "pax size too large": (member("f", b"1", pax={"size": str(2**70)}) + END, "ends early"),
    "pax size negative": (member("f", b"1", pax={"size": "-9"}) + END, "damaged"),
    "sparse past the end": (
        member("f", b"1" * 9, pax={"GNU.sparse.size": "5", "GNU.sparse.map": "0,9"}) + END,
        "map of holes",
    ),
    "sparse in disorder": (
        member("f", b"1" * 9, pax={"GNU.sparse.size": "99", "GNU.sparse.map": "50,5,10,4"}) + END,
        "map of holes",
    ),
    "sparse of negative length": (
        member("f", b"1", pax={"GNU.sparse.size": "99", "GNU.sparse.map": "5,3,9,-2"}) + END,
        "damaged",
    ),
    "sparse of more than there is": (
        member("f", b"1", pax={"GNU.sparse.size": "9999", "GNU.sparse.map": "0,900"}) + END,
        "damaged",
    ),
    "sparse map that is none": (
        member("f", b"1", pax={"GNU.sparse.size": "9", "GNU.sparse.map": "one"}) + END,
        "damaged",
    ),
    "sparse map without end": (
        member("f", b"9" * 2000, pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}) + END,
        "damaged|ends early",
    ),
    "real size of words": (
        member(
            "f",
            b"0\n" + bytes(510),
            pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "many"},
        )
        + END,
        "damaged",
    ),
    "real size of none": (member("f", b"1", pax={"GNU.sparse.realsize": "5000"}) + END, "damaged"),
    "old sparse header that goes on": (
        with_fields(member("f", kind=b"S", form=1), {482: b"\1"}),
        "ends early|damaged",
    ),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_in_one_line(store: Path, data: bytes, reason: str | None) -> None:
    if reason is None:  # which of the two depends on Python's version
        assert outcome(store, data) is not None
        return
    with pytest.raises(VentifsError) as caught:
        taken(store, data)
    assert re.search(reason, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)  # what happened; what to do


def outcome(store: Path, data: bytes) -> Entry | str:
    with Store.open(store, "write") as opened:
        return result(opened, data)


def result(store: Store, data: bytes) -> Entry | str:
    """The root, or the line that says why there is none. Nothing else may be raised."""
    try:
        return TarArchiver(store).run(io.BytesIO(data))
    except VentifsError as error:
        return str(error)


@pytest.mark.parametrize("command", ["", *PACKED])
def test_no_truncated_stream_is_archived(store: Path, command: str) -> None:
    """Unless all that is cut off is the padding after the first of the closing zeros."""
    stream = packed(GOOD, command) if command else GOOD
    least = len(stream) if command else len(GOOD) - 512
    rng = random.Random(0)
    cuts = {
        *range(0, len(stream), 512),
        len(stream) - 1,
        len(stream) - 4,
        least - 1,
        *rng.sample(range(len(stream)), 40),
    }
    with Store.open(store, "write") as opened:
        whole = result(opened, stream)
        assert isinstance(whole, Entry)
        for cut in sorted(cuts):
            found = result(opened, stream[:cut])
            assert found == whole if cut >= least else isinstance(found, str), cut


@pytest.mark.parametrize("command", ["", *PACKED])
def test_no_flipped_byte_does_more_than_fail(store: Path, command: str) -> None:
    stream = packed(GOOD, command) if command else GOOD
    with Store.open(store, "write") as opened:

        @settings(max_examples=150)
        @given(
            st.lists(
                st.tuples(st.integers(0, len(stream) - 1), st.integers(0, 255)),
                min_size=1,
                max_size=5,
            )
        )
        def run(flips: list[tuple[int, int]]) -> None:
            data = bytearray(stream)
            for at, byte in flips:
                data[at] = byte
            result(opened, bytes(data))

        run()


SPOTS = [0, 100, 108, 116, 124, 136, 156, 157, 257, 329, 337, 345, 386, 482, 483]
LETTERS = [b"x", b"g", b"S", b"L", b"K", b"1", b"\xff" * 12]
KEYWORDS = [
    "path",
    "size",
    "uid",
    "mtime",
    "linkpath",
    "hdrcharset",
    "GNU.sparse.map",
    "GNU.sparse.size",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.realsize",
    "GNU.sparse.name",
    "SCHILY.acl.access",
]
VALUES = ["", "0", "1", "-1", "0,1", "1,0,5", "f", "BINARY", "9" * 25, "\udcff"]


def test_no_header_does_more_than_fail(store: Path) -> None:
    """Headers whose checksums hold, and whatever bytes."""
    texts = st.binary(max_size=12) | st.sampled_from(LETTERS)
    records = st.lists(st.tuples(st.sampled_from(KEYWORDS), st.sampled_from(VALUES)), max_size=4)
    with Store.open(store, "write") as opened:

        @settings(max_examples=300)
        @given(
            st.dictionaries(st.sampled_from(SPOTS), texts, max_size=3),
            records,
            st.binary(max_size=600),
        )
        def run(fields: dict[int, bytes], pairs: list[tuple[str, str]], data: bytes) -> None:
            head = with_fields(member("h", data, form=1), fields)
            stream = head + member("f", data, pax=dict(pairs)) + head + END
            result(opened, stream)

        run()


def test_a_decompressor_is_never_asked_for_too_much() -> None:
    """What is a few bytes for each mebibyte of zeros comes out in pieces."""
    for command in ("zstd", "bzip2"):
        making = f"head -c 200M /dev/zero | {command} -c"
        bomb = subprocess.run(["sh", "-c", making], capture_output=True, check=True).stdout
        unpacked = Unpacked(io.BytesIO(bomb))
        unpacked.read(1)
        assert len(unpacked._piece) <= 128 << 20, command
        assert unpacked.codec == command


def test_a_killed_tar_is_not_archived(store: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for name in ("a", "b"):
        (tmp_path / "source" / name).write_bytes(noise(1 << 20))
    writer = subprocess.Popen(
        ["tar", "-cf", "-", "-C", tmp_path / "source", "."], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    head = writer.stdout.read(70_000)
    writer.kill()
    rest = writer.stdout.read()
    writer.wait()
    writer.stdout.close()
    with pytest.raises(VentifsError, match="ends early"):
        taken(store, head + rest)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_members(tmp_path: Path) -> None:
    """150,000 members in 90 MiB more than Python and the libraries take."""
    new_store(tmp_path / "store")
    program = """
import resource, sys
from pathlib import Path
from ventifs.store import Store
from ventifs.tree.tar.importer import TarArchiver
with Store.open(Path(sys.argv[1]), "write") as store:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    root = TarArchiver(store).run(sys.stdin.buffer)
    print(root.detail.paths, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    block = bytearray(member("d/" + "0" * 60, b"1"))
    for number in range(150_000):
        block[2:62] = b"%060d" % number
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block[:512])
        child.stdin.write(block)
    child.stdin.write(END)
    child.stdin.close()
    paths, grown_kib = map(int, child.stdout.read().split())
    child.stdout.close()
    assert child.wait() == 0
    assert paths == 150_001
    assert grown_kib < 90 << 10

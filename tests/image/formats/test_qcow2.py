"""qcow2 images of every kind that qemu-img makes, read as QEMU reads them; and hostile ones."""

import multiprocessing
import os
import random
import re
import shlex
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.images import (
    KIB,
    MIB,
    bytes_by_qemu,
    bytes_by_spans,
    bytes_of,
    opened,
    qemu_img,
    qemu_io,
    raw_image,
)
from tests.support.patience import PATIENCE_S
from ventifs.image.disk import Disk, ImageError, Span, joined
from ventifs.image.formats.advice import Following
from ventifs.image.formats.open_disk import LAYERS_MAX, open_disk
from ventifs.image.formats.qcow2 import CACHE_BYTES, Qcow2Disk
from ventifs.image.formats.references import References

SIZE = 3 * MIB + 512


def _agrees(image: Path) -> Disk:
    disk = opened(image)
    expected = bytes_by_qemu(image, "qcow2")
    assert disk.size == len(expected)
    assert bytes_of(disk) == expected
    assert bytes_by_spans(disk) == expected
    chance = random.Random(3)
    for _ in range(50):
        start, end = sorted(chance.randrange(disk.size) for _ in range(2))
        assert disk.read(start, end - start) == expected[start:end]
        assert bytes_by_spans(disk, start, end) == expected[start:end]
    assert disk.read(0, 0) == b""
    return disk


@pytest.mark.parametrize(
    "options",
    [
        "compat=0.10",
        "compat=0.10,cluster_size=512",
        "cluster_size=512",
        "cluster_size=4096,lazy_refcounts=on",
        "cluster_size=65536,refcount_bits=1",
        "cluster_size=2097152",
        "cluster_size=16384,extended_l2=on",
        "cluster_size=131072,extended_l2=on,refcount_bits=64",
        "preallocation=metadata",
        "preallocation=full",
        "preallocation=falloc",
    ],
)
def test_uncompressed_images(tmp_path: Path, options: str) -> None:
    raw_image(tmp_path / "raw", SIZE)
    image = tmp_path / "image"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", options, tmp_path / "raw", image)
    disk = _agrees(image)
    assert (disk.format, disk.label, disk.notes) == ("qcow2", str(image), [])
    assert disk.status.st_ino == image.stat().st_ino
    disk.close()
    disk.close()


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster", [512, 4096, 65536, 2 * MIB])
def test_compressed_images(tmp_path: Path, compression: str, cluster: int) -> None:
    raw_image(tmp_path / "raw", SIZE)
    image = tmp_path / "image"
    options = f"compression_type={compression},cluster_size={cluster}"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, tmp_path / "raw", image)
    _agrees(image).close()


def test_compressed_clusters_among_subclusters(tmp_path: Path) -> None:
    raw_image(tmp_path / "raw", SIZE)
    image = tmp_path / "image"
    more = ("-o", "extended_l2=on,cluster_size=64k")
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", *more, tmp_path / "raw", image)
    qemu_io(image, "write -P 7 100k 3k", "write -z 300k 10k", "discard 1M 256k")
    _agrees(image).close()


@pytest.mark.parametrize("options", ["", "compat=0.10", "extended_l2=on", "cluster_size=1k"])
def test_what_a_guest_writes(tmp_path: Path, options: str) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", *(("-o", options) if options else ()), image, "40M")
    qemu_io(
        image,
        *("write -P 1 0 1k", "write -P 2 1M 2M", "write -z 1500k 300k", "write -P 3 39M 1M"),
        *("write -P 4 20000k 70000", "write -z -u 2M 100k", "discard 64k 64k"),
    )
    disk = _agrees(image)
    assert sum(span.end - span.start for span in disk.spans(0, disk.size) if span.data) < 8 * MIB
    disk.close()


@pytest.mark.parametrize("base", ["raw", "qcow2", "vmdk"])
@pytest.mark.parametrize("options", ["", "extended_l2=on", "compat=0.10", "cluster_size=4k"])
def test_chains_of_backing_files(tmp_path: Path, base: str, options: str) -> None:
    raw_image(tmp_path / "raw", SIZE)
    qemu_img("convert", "-f", "raw", "-O", base, tmp_path / "raw", tmp_path / "base")
    (tmp_path / "sub").mkdir()
    middle, top = tmp_path / "sub/middle", tmp_path / "top"
    more = ("-o", options) if options else ()
    # Shorter than its base, then longer: what is past the end of a layer reads as zeros.
    qemu_img("create", "-f", "qcow2", "-F", base, "-b", "../base", *more, middle, "2M")
    qemu_io(middle, "write -P 1 1000k 10k", "write -z 500k 200k")
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", "sub/middle", *more, top, "5M")
    qemu_io(top, "write -P 2 1005k 1k", "write -P 3 4M 1k", "discard 64k 512k", "write -z 900k 9k")
    _agrees(top).close()


def test_a_chain_that_is_read_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_image(tmp_path / "base", SIZE)
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", "base", tmp_path / "top")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    disk = open_disk("../top", "qcow2", References(Following((os.fsencode(tmp_path),))))
    assert bytes_of(disk) == (tmp_path / "base").read_bytes()
    disk.close()


def _unnamed(top: Path) -> Path:
    """The same image, without the format of its backing file."""
    said = struct.pack(">I", 0xE2792ACA)
    assert said in top.read_bytes()
    top.write_bytes(top.read_bytes().replace(said, b"none"))
    return top


def test_a_backing_file_of_no_named_format_is_raw(tmp_path: Path) -> None:
    raw_image(tmp_path / "raw", MIB)
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", "raw", tmp_path / "top")
    disk = _agrees(_unnamed(tmp_path / "top"))
    assert disk.notes == []
    disk.close()


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vpc", "vhdx", "qed", "vdi"])
def test_a_backing_file_of_no_named_format_is_no_image(tmp_path: Path, kind: str) -> None:
    """The commands that the message has are run: raw as it says, or as what it is."""
    raw_image(tmp_path / "raw", MIB)
    qemu_img("convert", "-f", "raw", "-O", kind, tmp_path / "raw", tmp_path / "base")
    top = tmp_path / "top"
    qemu_img("create", "-f", "qcow2", "-F", kind, "-b", "base", top)
    refusal = _refusal(_unnamed(top))
    assert "it has no format for its backing file" in refusal
    commands = re.findall("'(qemu-img rebase [^']*)'", refusal)
    assert len(commands) == (1 if kind in ("qed", "vdi") else 2)
    for command in commands:
        subprocess.run(shlex.split(command), check=True)
        disk = opened(top)
        assert isinstance(disk, Qcow2Disk)
        assert disk.backing is not None
        raw = command.split()[command.split().index("-F") + 1] == "raw"
        assert (disk.backing.format == "raw") == raw
        expected = tmp_path / ("base" if raw else "raw")
        assert bytes_of(disk)[:65536] == expected.read_bytes()[:65536]
        disk.close()


@pytest.mark.parametrize("raw", ["on", "off"])
def test_external_data_files(tmp_path: Path, raw: str) -> None:
    image = tmp_path / "image"
    options = f"data_file={tmp_path}/data,data_file_raw={raw}"
    qemu_img("create", "-f", "qcow2", "-o", options, image, "8M")
    qemu_io(image, "write -P 1 0 70k", "write -P 2 3M 5k", "write -z 3100k 200k", "discard 0 64k")
    _agrees(image).close()
    (tmp_path / "data").unlink()
    with pytest.raises(ImageError, match=r"its data file cannot be used: .*no such file"):
        opened(image)


def test_internal_snapshots_are_ignored_with_a_note(tmp_path: Path) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", image, "8M")
    qemu_io(image, "write -P 1 0 1M")
    qemu_img("snapshot", "-c", "before", image)
    qemu_io(image, "write -P 2 100k 1k")
    disk = _agrees(image)
    assert disk.notes == [
        "internal snapshots: 1, which are not archived, only the current state",
    ]
    disk.close()


# What is refused


def _plain(path: Path, *options: str) -> Path:
    raw_image(path.with_name("raw"), MIB)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, path.with_name("raw"), path)
    return path


def _patched(path: Path, offset: int, new: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(new)
    return path


def _refusal(path: Path) -> str:
    """What is said of an image, on opening or on reading it."""
    with pytest.raises(ImageError) as caught:
        bytes_of(opened(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("cipher", ["aes", "luks"])
def test_encrypted_images_are_refused(tmp_path: Path, cipher: str) -> None:
    image = _patched(_plain(tmp_path / "image"), 32, struct.pack(">I", 1 + (cipher == "luks")))
    assert f"encrypted qcow2 image ({cipher.upper()}): decrypt it first" in _refusal(image)


def test_unknown_features_are_refused_by_name(tmp_path: Path) -> None:
    image = _patched(_plain(tmp_path / "image"), 72, struct.pack(">Q", 1 << 5 | 1 << 63))
    assert "features unknown here (bit 5, bit 63)" in _refusal(image)
    table = struct.pack(">II", 0x6803F857, 48) + b"\0\x05" + b"warp drive".ljust(46, b"\0")
    _patched(image, 112, table + bytes(8))
    assert "features unknown here (warp drive, bit 63)" in _refusal(image)


def test_dirty_and_corrupt_images_are_noted(tmp_path: Path) -> None:
    image = _patched(_plain(tmp_path / "image"), 72, struct.pack(">Q", 3))
    disk = opened(image)
    assert bytes_of(disk) == (tmp_path / "raw").read_bytes()
    assert [note.partition(":")[0] for note in disk.notes] == [
        "marked as corrupt by QEMU",
        "not closed cleanly",
    ]
    disk.close()


_HEADER_DAMAGE: dict[str, tuple[int, bytes, str]] = {
    "version": (4, struct.pack(">I", 4), "qcow2 version 4"),
    "cluster bits": (20, struct.pack(">I", 60), "clusters have 2^60 bytes"),
    "few cluster bits": (20, struct.pack(">I", 8), "clusters have 2^8 bytes"),
    "size": (24, b"\x7f" + b"\xff" * 7, "L1 table is larger than QEMU allows"),
    "negative size": (24, b"\xff" * 8, "size is beyond all bounds"),
    "grown size": (24, struct.pack(">Q", 1 << 40), "L1 table is too small"),
    "l1 entries": (36, struct.pack(">I", 0xFFFF_FFFF), "L1 table is larger than QEMU allows"),
    "l1 offset": (40, struct.pack(">Q", 512), "L1 table is not where a cluster begins"),
    "far l1": (40, struct.pack(">Q", 1 << 50), "L1 table is past the end of the file"),
    "compression": (104, b"\x07", "compression is of kind 7"),
    "refcount order": (96, struct.pack(">I", 7), "refcounts have 2^7 bits"),
    "header length": (100, struct.pack(">I", 0xFFFF_FFF8), "header has 4294967288 bytes"),
    "extension": (112, struct.pack(">II", 1, 0xFFFF_FFFF), "extension is longer than there is"),
    "backing": (8, struct.pack(">QI", 1 << 40, 10), "backing file is not in its first cluster"),
    "backing length": (8, struct.pack(">QI", 600, 5000), "backing file is not in its first"),
}


@pytest.mark.parametrize("damage", _HEADER_DAMAGE)
def test_damaged_headers_are_refused(tmp_path: Path, damage: str) -> None:
    offset, new, expected = _HEADER_DAMAGE[damage]
    assert expected in _refusal(_patched(_plain(tmp_path / "image"), offset, new))


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    image = _plain(tmp_path / "image")
    (l1,) = struct.unpack_from(">Q", image.read_bytes(), 40)
    (l2,) = struct.unpack_from(">Q", image.read_bytes(), l1)
    l2 &= (1 << 56) - 512
    for at, entry, expected in (
        (l2, 1 << 63 | 512, "a data cluster at 512, where no cluster begins"),
        (l2, 1 << 62, "compressed cluster at 0"),
        (l2, 1 << 62 | (1 << 62) - 1, "compressed cluster at"),
        (l1, 512, "L2 table at 512, where no cluster begins"),
        (l1, 1 << 55, "L2 table at 36028797018963968 is past the end"),
    ):
        _patched(image, at, struct.pack(">Q", entry))
        assert expected in _refusal(image)
    image = _plain(tmp_path / "image", "-o", "compat=0.10")
    _patched(image, l2, struct.pack(">Q", 1))
    assert "zero cluster, which version 2 does not have" in _refusal(image)


def test_an_image_cut_off_reads_as_qemu_reads_it_with_a_note(tmp_path: Path) -> None:
    image = _plain(tmp_path / "image")
    os.truncate(image, image.stat().st_size - 300 * KIB)
    disk = _agrees(image)
    (note,) = disk.notes
    assert note.startswith("cut off: the file ends at")
    disk.close()
    os.truncate(image, 256 * KIB)  # the L2 table's place, which QEMU takes for zeros
    assert "past the end of the file, which was cut off" in _refusal(image)


def test_chains_that_do_not_end_are_refused(tmp_path: Path) -> None:
    for name, below in (("a", "b"), ("b", "a"), ("self", "self")):
        qemu_img("create", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, tmp_path / name, "1M")
    assert "its backing files lead back to itself" in _refusal(tmp_path / "a")
    assert "its backing files lead back to itself" in _refusal(tmp_path / "self")


def test_chains_are_read_to_a_limit(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "0", "1M")
    for number in range(1, LAYERS_MAX + 1):
        below = ("-F", "qcow2", "-b", f"{number - 1}", tmp_path / f"{number}", "1M")
        qemu_img("create", "-u", "-f", "qcow2", *below)
    disk = opened(tmp_path / f"{LAYERS_MAX - 1}")
    assert bytes_of(disk) == bytes(MIB)
    disk.close()
    assert "more than 64 images" in _refusal(tmp_path / f"{LAYERS_MAX}")


@pytest.mark.parametrize("name", ["nbd://host/x", "json:{}", "http://host/x"])
def test_backing_files_that_are_no_files_are_refused(tmp_path: Path, name: str) -> None:
    image = _patched(_plain(tmp_path / "image"), 8, struct.pack(">QI", 1024, len(name)))
    _patched(image, 1024, name.encode())
    assert f"its backing file is '{name}': " in _refusal(image)


def test_a_backing_file_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    image = tmp_path / "image"
    qemu_img("create", "-u", "-f", "qcow2", "-F", "raw", "-b", "pipe", image, "1M")
    assert "pipe: not a regular file" in _refusal(image)


# Processes, threads, hostile bytes


def _in_child(work: Callable[[], bool]) -> bool:
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(not work()))
    child.start()
    child.join(PATIENCE_S)
    return child.exitcode == 0


def test_forked_processes_and_threads_read_at_once(tmp_path: Path) -> None:
    image = _plain(tmp_path / "image", "-c")
    expected = (tmp_path / "raw").read_bytes()
    disk = opened(image)
    disk.read(0, 1000)  # something is cached
    assert _in_child(lambda: bytes_of(disk) == expected)
    read: list[bytes] = []
    threads = [threading.Thread(target=lambda: read.append(bytes_of(disk, 5001))) for _ in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [expected] * 4
    disk.close()


def test_caches_are_bounded(tmp_path: Path) -> None:
    raw_image(tmp_path / "raw", 12 * MIB)
    image = tmp_path / "image"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", tmp_path / "raw", image)
    disk = opened(image)
    assert isinstance(disk, Qcow2Disk)
    bytes_of(disk)
    assert MIB < disk.cached_bytes <= 2 * CACHE_BYTES
    disk.close()


def test_neighbouring_spans_are_joined() -> None:
    spans = [Span(0, 5, True), Span(5, 5, False), Span(5, 9, True), Span(9, 10, False)]
    assert list(joined(spans)) == [Span(0, 9, True), Span(9, 10, False)]
    assert list(joined([])) == []


@pytest.mark.parametrize("options", ["", "-c", "zstd", "extended", "v2"])
def test_mutated_images_raise_nothing_else(tmp_path: Path, options: str) -> None:
    more = {
        "": (),
        "-c": ("-c",),
        "zstd": ("-c", "-o", "compression_type=zstd"),
        "extended": ("-o", "extended_l2=on,cluster_size=16k"),
        "v2": ("-o", "compat=0.10,cluster_size=512"),
    }[options]
    image = _plain(tmp_path / "image", *more)
    whole = image.read_bytes()
    chance = random.Random(options)
    tables = [at for at in range(0, len(whole), 512) if _is_table(whole[at : at + 16])]
    read = 0
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            place = chance.choice((chance.randrange(128), chance.choice(tables)))
            place += chance.randrange(16) if place >= 128 else 0
            length = chance.choice((1, 2, 4, 8))
            data[place : place + length] = chance.choice(
                (chance.randbytes(length), b"\0" * length, b"\xff" * length)
            )
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        image.write_bytes(data)
        read += _survived(image)
    assert 10 < read < 245  # some are damaged, and some are not


def _is_table(start: bytes) -> bool:
    numbers = struct.unpack(">QQ", start)
    return any(number >> 63 or number >> 62 & 1 for number in numbers) and all(
        number & (1 << 56) - 1 < 1 << 56 for number in numbers
    )


def _survived(image: Path) -> bool:
    """Whether an image could be read; anything but an `ImageError` is raised."""
    try:
        disk = opened(image)
    except ImageError:
        return False
    try:
        end = min(disk.size, 4 * MIB)
        for span in disk.spans(0, disk.size):
            assert span.end > span.start
        return len(b"".join(disk.read(at, min(65536, end - at)) for at in range(0, end, 65536))) > 0
    except ImageError:
        return False
    finally:
        disk.close()

"""Names in QEMU's headers: the files they stand for, as QEMU understands them; refusals."""

import json
import os
import struct
from pathlib import Path

import pytest

from tests.support.images import MIB, bytes_by_qemu, bytes_of, opened, qemu_img, raw_image
from ventifs.image.disk import ImageError
from ventifs.image.formats.qemu_names import NamedFile, named


def _json(**options: object) -> bytes:
    return b"json:" + json.dumps(options).encode()


FILE = {"driver": "file", "filename": "/x"}


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        (b"base", "", (b"base", "")),
        (b"base\0\0", "qcow2", (b"base", "qcow2")),
        (b"/a:b/c", "raw", (b"/a:b/c", "raw")),
        (b"./a:b", "raw", (b"./a:b", "raw")),
        (b"file:/x", "raw", (b"/x", "raw")),
        (b"file:x", "", (b"x", "")),
        (b"file:///x", "", (b"///x", "")),
        (b"host_device:/dev/x", "raw", (b"/dev/x", "raw")),
        (_json(**FILE), "", (b"/x", "")),
        (_json(**FILE), "raw", (b"/x", "raw")),
        (_json(driver="host_device", filename="/dev/x"), "host_device", (b"/dev/x", "host_device")),
        (_json(driver="file", filename="nbd:x"), "", (b"nbd:x", "")),  # a driver takes it as it is
        (_json(driver="raw", file=FILE), "", (b"/x", "raw")),
        (_json(driver="raw", file={"driver": "raw", "file": FILE}), "", (b"/x", "raw")),
        (_json(driver="qcow2", file=FILE), "", (b"/x", "qcow2")),
        (_json(driver="qcow2", file=FILE), "qcow2", (b"/x", "qcow2")),
        (_json(driver="raw", file={"driver": "qcow2", "file": FILE}), "", (b"/x", "qcow2")),
        (_json(driver="qcow2", file={"driver": "raw", "file": FILE}), "", (b"/x", "qcow2")),
        (_json(file=FILE), "", (b"/x", "")),
        (_json(file=FILE), "vpc", (b"/x", "vpc")),
        (
            _json(**{"driver": "qcow2", "file.driver": "file", "file.filename": "/x"}),
            "",
            (b"/x", "qcow2"),
        ),
        (_json(**{"driver": "qcow2", "file.filename": "file:/x"}), "", (b"/x", "qcow2")),
        (_json(**{"file.driver": "file", "file": {"filename": "/x"}}), "raw", (b"/x", "raw")),
        (_json(driver="raw", file={"driver": "raw", "file.filename": "/x"}), "", (b"/x", "raw")),
        (
            _json(
                driver="qcow2",
                file={**FILE, "locking": "off", "aio": "native"},
                discard="unmap",
                **{"cache.direct": True, "node-name": "n"},
            ),
            "",
            (b"/x", "qcow2"),
        ),
    ],
)
def test_files_are_named(name: bytes, format: str, expected: tuple[bytes, str]) -> None:  # noqa: A002
    assert named(name, format) == NamedFile(*expected)


@pytest.mark.parametrize(
    "name",
    [
        b"nbd:localhost:10809",
        b"nbd+unix:///x",
        b"http://x/y",
        b"ssh://x/y",
        b"fat:/etc",
        b"blkdebug::/x",
        b"null-co://",
        b"json:",
        b"json:[]",
        b"json:{",
        b"json:1",
        b'json:{"a":}',
        _json(),
        _json(driver="file"),
        _json(driver="file", filename=1),
        _json(filename="nbd:x"),
        _json(driver="raw"),
        _json(driver="raw", file="/x"),
        _json(driver="raw", file=["/x"]),
        _json(driver="nbd", host="x"),
        _json(driver="vmdk", file=FILE),
        _json(driver=1, file=FILE),
        _json(driver="raw", file={"driver": "https", "url": "https://x"}),
        _json(driver="raw", file=FILE, offset=512),
        _json(driver="raw", file=FILE, size=512),
        _json(driver="qcow2", file=FILE, backing=None),
        _json(driver="qcow2", file=FILE, **{"data-file": FILE}),
        _json(driver="qcow2", file=FILE, **{"encrypt.format": "luks"}),
        _json(driver="qcow2", file={"driver": "qcow2", "file": FILE}),
        _json(driver="file", filename="/x", **{"pr-manager": "x"}),
        _json(driver="raw", **{"file.filename": "/x"}, file={"filename": "/y"}),
        _json(driver="raw", **{"file.filename.x": "/x"}, file={"filename": "/y"}),
        b"json:" + b'{"file":' * 5000,
        b'json:{"driver":"file","filename":"\xff"}',
    ],
)
def test_all_else_is_refused(name: bytes) -> None:
    with pytest.raises(ImageError):
        named(name)


def test_a_name_and_what_is_beside_it_agree() -> None:
    with pytest.raises(ImageError, match="said to be qcow2 by its name, and raw beside it"):
        named(_json(driver="qcow2", file=FILE), "raw")


@pytest.mark.parametrize(
    "name",
    [
        "base",
        "file:base",
        "{}/base",
        "file:{}/base",
        'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{}/base"}}}}',
        'json:{{"driver":"qcow2","file.filename":"base"}}',
    ],
)
def test_chains_are_read_as_qemu_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)  # where QEMU looks for relative names that are no plain ones
    raw_image(tmp_path / "raw", MIB)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "raw", "base")
    name = name.format(tmp_path)
    qemu_img("create", "-u", "-f", "qcow2", "-F", "qcow2", "-b", name, "top", "1M")
    disk = opened(tmp_path / "top")
    assert bytes_of(disk) == bytes_by_qemu(tmp_path / "top", "qcow2")
    assert bytes_of(disk) == (tmp_path / "raw").read_bytes()
    disk.close()


@pytest.mark.parametrize("depth", [15, 16, 500, 985, 989, 1000])
@pytest.mark.parametrize("end", ["filename", "bad"])
def test_nodes_in_each_other_are_counted(depth: int, end: str) -> None:
    """Dotted keys and objects alike; Python's own limit is never reached."""
    for name in (
        '{"' + "file." * depth + end + '":"x"}',
        '{"file":' * depth + '{"' + end + '":"x"}' + "}" * depth,
    ):
        if depth < 16 and end == "filename":
            assert named(b"json:" + name.encode()).path == b"x"
            continue
        with pytest.raises(ImageError, match=r"^its? ") as caught:
            named(b"json:" + name.encode())
        assert len(str(caught.value)) < 100


def test_options_are_shortened_in_messages() -> None:
    for name in (
        _json(**{"x" * 5000: 1, "filename": "y"}),
        _json(**{f"{'x' * 5000}.a": 1, "x" * 5000: 2}),
    ):
        with pytest.raises(ImageError, match="option") as caught:
            named(name)
        assert len(str(caught.value)) < 120


def _with_data_file(image: Path, name: bytes) -> None:
    """Name a data file in a header, in place of all that follows it there."""
    head = bytearray(image.read_bytes())
    place = head.index(struct.pack(">I", 0x44415441))
    extension = struct.pack(">II", 0x44415441, len(name)) + name + bytes(-len(name) % 8)
    head[place : place + len(extension) + 8] = extension + bytes(8)
    image.write_bytes(head)


def test_names_of_data_files_are_bounded(tmp_path: Path) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path}/data", image, "1M")
    for name in (b"nbd:" + b"\x1b" * 60_000, b"a" * 1024, b'json:{"' + b"file." * 989 + b'":1}'):
        _with_data_file(image, name)
        with pytest.raises(ImageError, match=r"data file has .* at most 1,023") as caught:
            opened(image)
        assert len(str(caught.value)) < 1000
    _with_data_file(image, b"nbd:" + b"\x1b" * 1019)
    with pytest.raises(ImageError, match="reached by a protocol") as caught:
        opened(image)
    assert len(str(caught.value)) < 1000
    _with_data_file(image, b'json:{"' + b"file." * 190 + b'filename":1}')
    with pytest.raises(ImageError, match="more than 16 nodes in each other"):
        opened(image)


def test_the_format_of_a_backing_file_is_bounded(tmp_path: Path) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-u", "-f", "qcow2", "-F", "raw", "-b", "below", image, "1M")
    head = bytearray(image.read_bytes())
    for kind, other in ((0xE2792ACA, 1), (0x6803F857, 0xE2792ACA)):  # the table of features
        struct.pack_into(">I", head, head.index(struct.pack(">I", kind)), other)
    image.write_bytes(head)
    with pytest.raises(ImageError, match=r"backing file has \d+ bytes, and at most 15"):
        opened(image)


def test_external_data_files_are_named_so_too(tmp_path: Path) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path}/data", image, "1M")
    old = os.fsencode(tmp_path / "data")
    place = image.read_bytes().index(old)
    for name in (b"data", b"file:data", b'json:{"driver":"file","filename":"data"}'):
        head = bytearray(image.read_bytes())
        if len(name) > len(old):
            continue
        head[place : place + len(old)] = name.ljust(len(old), b"\0")
        image.write_bytes(head)
        disk = opened(image)
        assert bytes_of(disk) == bytes(MIB)
        disk.close()
    assert struct.unpack_from(">I", image.read_bytes(), place - 8)[0] == 0x44415441

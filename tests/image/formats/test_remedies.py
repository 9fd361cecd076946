"""Every command that a refusal names is run, on an image that is refused so."""

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import ventifs
from tests.support import odd_images, vhdxs
from tests.support.images import KIB, bytes_of, mixture, qemu_img, qemu_io
from ventifs.image.disk import ImageError
from ventifs.image.formats import probe
from ventifs.image.formats.advice import Advice, Following
from ventifs.image.formats.choice import check, chosen
from ventifs.image.formats.open_disk import look, open_disk, read_as
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.references import References
from ventifs.image.formats.remedies import OF_KINDS, Remedy

DISK = mixture(320 * KIB)  # whole cylinders, whatever a tool takes for one
IN_A_GUEST = {Remedy.LUKS}  # tests/guest/test_remedies.py


def _vmdk_parent(top: Path, disk: bytes) -> Path:
    base = odd_images.by_qemu("vmdk")(top, disk[: 64 * KIB] + bytes(len(disk) - 64 * KIB))
    image = top / "top.vmdk"
    qemu_img("create", "-f", "vmdk", "-F", "vmdk", "-b", base, image)
    rest = top.parent / "rest"  # qemu-io splits at spaces
    rest.write_bytes(disk[64 * KIB :])
    qemu_io(image, f"write -s {rest} 64k {len(disk) - 64 * KIB}", kind="vmdk")
    return image


def _vhdx_log(top: Path, disk: bytes) -> Path:
    """A disk in whose table a block is missing, until the log is replayed."""
    image = top / "image.vhdx"
    qemu_img("create", "-f", "vhdx", image, str(len(disk)))
    source = top.parent / "disk"  # qemu-io splits at spaces
    source.write_bytes(disk)
    before = image.read_bytes()
    qemu_io(image, f"write -s {source} 0 {len(disk)}", kind="vhdx")
    data = bytearray(vhdxs.undo_replay(image))
    table = vhdxs.table(data)
    data[table : table + 8] = before[table : table + 8]
    image.write_bytes(data)
    return image


def _damaged_qcow2(top: Path, disk: bytes) -> Path:
    image = odd_images.by_qemu("qcow2")(top, disk)
    data = bytearray(image.read_bytes())
    data[40:48] = (123).to_bytes(8, "big")  # where the first table is
    image.write_bytes(data)
    return image


def _aes_qcow2(top: Path, disk: bytes) -> Path:
    return odd_images.encrypted_qcow2(top, disk, "encrypt.format=aes")


def _luks_qcow2(top: Path, disk: bytes) -> Path:
    return odd_images.encrypted_qcow2(top, disk, "encrypt.format=luks,encrypt.iter-time=100")


_Case = tuple[Remedy, str, odd_images.Maker]
# What is refused so, and the format it is opened as; none for what is chosen by the name.
CASES: list[_Case] = [
    (Remedy.QCOW, "", odd_images.by_qemu("qcow")),
    (Remedy.QED, "", odd_images.by_qemu("qed")),
    (Remedy.VDI, "", odd_images.by_qemu("vdi")),
    (Remedy.PARALLELS, "", odd_images.by_qemu("parallels")),
    (Remedy.BOCHS, "", odd_images.bochs),
    (Remedy.CLOOP, "", odd_images.cloop),
    (Remedy.DMG, "", odd_images.dmg),
    (Remedy.UML_COW, "", odd_images.uml_cow),
    (Remedy.EWF, "", odd_images.ewf),
    (Remedy.WIM, "", odd_images.wim),
    (Remedy.DECRYPT_QCOW2, "qcow2", _aes_qcow2),
    (Remedy.FLATTEN_QCOW2, "qcow2", odd_images.deep),
    (Remedy.FLATTEN_QCOW2, "qcow2", odd_images.overlay("vdi")),
    (Remedy.CHECK_QCOW2, "qcow2", _damaged_qcow2),
    (Remedy.VMDK_PARENT, "vmdk", _vmdk_parent),
    (Remedy.VHDX_LOG, "vhdx", _vhdx_log),
]


def test_every_command_has_a_case() -> None:
    cases = {remedy for remedy, _, _ in CASES} | IN_A_GUEST
    assert cases == {remedy for remedy in Remedy if remedy.commands}
    assert set(OF_KINDS.values()) < cases
    assert {what for _, kind, what in probe._STARTS if kind == "foreign"} < OF_KINDS.keys()
    for remedy in Remedy:
        assert remedy.value.count("'") % 2 == 0
        for command in remedy.commands:
            assert "{path}" in command


def _refusal(image: Path, format: str) -> str:  # noqa: A002
    """What is said of an image, to somebody who allows all references."""
    if not format:
        file = RawDisk(str(image))
        try:
            with pytest.raises(ImageError) as caught:
                check(chosen(str(image), "file", None, None), look(file), str(image), Advice())
        finally:
            file.close()
        return str(caught.value)
    with pytest.raises(ImageError) as caught:
        open_disk(image, format, References(Following((b"/",))))
    return str(caught.value)


def _run(command: str, top: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory, as a shell would."""
    return subprocess.run(
        ["sh", "-c", command],
        cwd=top,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _result(remedy: Remedy, image: Path, top: Path) -> bytes:
    """The disk that a remedy has made."""
    files = {Remedy.EWF: "NEW.raw", Remedy.UML_COW: "NEW.img", Remedy.WIM: "DIR/disk"}
    if remedy in files:
        return (top / files[remedy]).read_bytes()
    in_place = remedy is Remedy.VHDX_LOG
    disk = open_disk(image if in_place else top / "NEW.qcow2", "vhdx" if in_place else "qcow2")
    try:
        return bytes_of(disk)
    finally:
        disk.close()


def _id(case: object) -> str:
    return case.name if isinstance(case, Remedy) else ""


@pytest.mark.slow  # QEMU measures the machine, before it encrypts
def test_what_is_advised_for_luks_works(tmp_path: Path) -> None:
    test_what_is_advised_works(tmp_path, Remedy.DECRYPT_QCOW2, "qcow2", _luks_qcow2)


@pytest.mark.parametrize(("remedy", "format", "make"), CASES, ids=_id)
def test_what_is_advised_works(
    tmp_path: Path,
    remedy: Remedy,
    format: str,  # noqa: A002
    make: odd_images.Maker,
) -> None:
    """The very command of the message, with a name that a shell would take apart."""
    tool = remedy.commands[0].split()[0]
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    top = tmp_path / "with spaces, & 'quotes'"
    top.mkdir()
    image = make(top, DISK)
    refusal = _refusal(image, format)
    assert "\n" not in refusal
    assert remedy.line(str(image)) in refusal
    for command in re.findall(r"'((?:[^'\\]|\\.)*)'", remedy.line(str(image))):
        if command.startswith("--"):
            continue
        done = _run(command, top)
        if remedy is Remedy.CHECK_QCOW2:  # which finds errors
            assert done.returncode
            assert "Active L1 table offset invalid" in done.stderr
            read_as(RawDisk(str(image)), "raw").close()
            return
        assert not done.returncode, done.stdout + done.stderr
    assert _result(remedy, image, top) == DISK


def _over_secret(driver: str, *options: str) -> odd_images.Maker:
    """What makes an image of nothing over the disk, as its backing file."""

    def make(top: Path, disk: bytes) -> Path:
        base, image = top / "base", top / f"image.{driver}"
        base.write_bytes(disk)
        qemu_img("create", "-f", driver, "-b", base, "-F", "raw", *options, image)
        return image

    return make


def _encrypted_over_secret(top: Path, disk: bytes) -> Path:
    (top / "KEY").write_text(odd_images.SECRET)
    key = str(top / "KEY").replace(",", ",,")
    return _over_secret(
        "qcow2",
        "--object",
        f"secret,id=key,file={key}",
        "-o",
        "encrypt.format=aes,encrypt.key-secret=key",
    )(top, disk)


def _vmdk_over_secret(top: Path, disk: bytes) -> Path:
    base, image = odd_images.by_qemu("vmdk")(top, disk), top / "top.vmdk"
    qemu_img("create", "-f", "vmdk", "-F", "vmdk", "-b", base, image)
    return image


@pytest.mark.parametrize(
    ("remedy", "make"),
    [
        (Remedy.QCOW, _over_secret("qcow")),
        (Remedy.QED, _over_secret("qed")),
        (Remedy.UML_COW, odd_images.uml_cow),
        (Remedy.DECRYPT_QCOW2, _encrypted_over_secret),
        (Remedy.FLATTEN_QCOW2, _over_secret("qcow2")),
        (Remedy.VMDK_PARENT, _vmdk_over_secret),
    ],
    ids=_id,
)
def test_what_reads_other_files_of_the_host_says_so(
    tmp_path: Path, remedy: Remedy, make: odd_images.Maker
) -> None:
    """The result has a secret of which only the name was in the image, and the line warns of it."""
    if shutil.which(remedy.commands[0].split()[0]) is None:
        pytest.skip("needs its tool")
    image = make(tmp_path, DISK)
    line = remedy.line(str(image))
    (command,) = re.findall(r"'((?:[^'\\]|\\.)*)'", line)
    done = _run(command, tmp_path)
    assert not done.returncode, done.stderr
    assert _result(remedy, image, tmp_path) == DISK
    assert "if you trust it with the files of this host, every one of which it can name" in line


def test_no_other_command_reads_what_an_image_names(tmp_path: Path) -> None:
    """Of the remedies without the warning, those for formats that can name a file."""
    secret = mixture(64 * KIB, 9)
    image = _over_secret("qcow2")(tmp_path, secret)
    before = image.read_bytes()
    (check, _) = re.findall(r"'([^']*)'", Remedy.CHECK_QCOW2.line(str(image)))
    done = _run(check, tmp_path)
    assert "No errors" in done.stdout
    assert image.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "image.qcow2"]


@pytest.mark.parametrize(
    ("path", "whole", "listed"),
    [
        ("a,b", "a,b", "a,,b"),
        ("/a,,b/c d", r"/a,,b/c\ d", r"/a,,,,b/c\ d"),
        ("-a", "./-a", "./-a"),
        ("nbd:x/y", "./nbd:x/y", "./nbd:x/y"),
        ("json:{}", r"./json:\{\}", r"./json:\{\}"),
        ("/a/b:c", "/a/b:c", "/a/b:c"),
        ("a\\x0a", "FILE", "FILE"),
    ],
)
def test_paths_in_commands(path: str, whole: str, listed: str) -> None:
    assert f"-f qcow2 -O qcow2 {whole} NEW" in Remedy.FLATTEN_QCOW2.line(path)
    assert f",file.filename={listed} NEW" in Remedy.DECRYPT_QCOW2.line(path)


@pytest.mark.parametrize("suffix", [".vmdk", ".vhd", ".vhdx", ".qcow2"])
def test_what_is_damaged_is_archived_as_it_stands(tmp_path: Path, suffix: str) -> None:
    image = tmp_path / f"a{suffix}"
    magic = {
        ".vmdk": b"KDMV",
        ".vhd": b"conectix",
        ".vhdx": b"vhdxfile",
        ".qcow2": b"QFI\xfb\0\0\0\3",
    }
    image.write_bytes(magic[suffix] + b"\7" * 5000)
    assert "'--format raw' archives the file as it stands" in _refusal(image, suffix[1:])
    disk = open_disk(image, "raw")
    assert bytes_of(disk) == image.read_bytes()
    disk.close()


def test_a_format_that_is_not_named_can_be(tmp_path: Path) -> None:
    """Both commands of the refusal, each for what the lower layer is."""
    for number, expected in ((0, b"\7" * KIB), (1, None)):
        base, image = tmp_path / f"base{number}", tmp_path / f"top{number}"
        qemu_img("create", "-f", "qcow2", base, "64k")
        qemu_io(base, "write -P 7 0 64k", kind="qcow2")
        qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", base, image)
        data = image.read_bytes()
        image.write_bytes(data.replace(b"\xe2\x79\x2a\xca\0\0\0\5qcow2", bytes(13)))
        refusal = _refusal(image, "qcow2")
        commands = re.findall(r"'(qemu-img rebase [^']*)'", refusal)
        assert len(commands) == 2
        done = _run(commands[number], tmp_path)
        assert not done.returncode, done.stderr
        disk = open_disk(image, "qcow2", References(Following((os.fsencode(tmp_path),))))
        assert disk.read(0, KIB) == (expected or base.read_bytes()[:KIB])
        disk.close()


def test_no_command_stands_anywhere_else() -> None:
    """Commands between quotes, or in pieces of messages, of programs that the table has."""
    programs = {command.split()[0] for remedy in Remedy for command in remedy.commands}
    found = []
    for name in Path(ventifs.__file__).parent.rglob("*.py"):
        if name.name == "remedies.py":
            continue
        for node in ast.walk(ast.parse(name.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for program in programs:
                    if re.search(rf"'{program} [a-z-]", node.value) and "\n\n" not in node.value:
                        found.append((name.name, node.value))
    assert found == []

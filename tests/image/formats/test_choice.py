"""What a source is archived as: by options, by what was kept, kind and suffix; not by content."""

import re
import shlex
import subprocess

import pytest

from ventifs.image.disk import ImageError
from ventifs.image.formats.advice import Advice, Following, command_line
from ventifs.image.formats.choice import TAR, check, chosen, note_of, source_of
from ventifs.image.formats.kept_choice import Kept, SourceType
from ventifs.image.formats.probe import Guess


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.tar", TAR),
        ("a.TAR", TAR),
        ("a.tar.gz", TAR),
        ("a.tar.zst", TAR),
        ("a.tar.1", TAR),
        ("a.tgz", TAR),
        ("a.tbz2", TAR),
        ("a.txz", TAR),
        ("a.tzst", TAR),
        ("a.Tgz", TAR),
        ("a.img", "raw"),
        ("a.raw", "raw"),
        ("a.IMG", "raw"),
        ("a", "raw"),
        ("a.qcow2.1", "raw"),
        ("a.tarx", "raw"),
        ("tar", "raw"),
        ("tgz", "raw"),
        ("a.gz", "raw"),
        ("a.vdi", "raw"),
        ("a.tar/b", "raw"),
        ("a.qcow2/b.img", "raw"),
        ("a.qcow", "raw"),
        ("2026.11.30", "raw"),
        ("a.qcow2", "qcow2"),
        ("a.QCOW2", "qcow2"),
        ("a.b.qcow2", "qcow2"),
        ("a.vmdk", "vmdk"),
        ("a.vhd", "vhd"),
        ("a.vhdx", "vhdx"),
        ("a\n.qcow2", "qcow2"),
        ("a-flat.vmdk", "raw"),
        ("a-FLAT.VMDK", "raw"),
        ("a-f001.vmdk", "raw"),
        ("a-f1000.vmdk", "raw"),
        ("a-000001-flat.vmdk", "raw"),
        ("a-rdm.vmdk", "raw"),
        ("a-rdmp.vmdk", "raw"),
        ("a-pt.vmdk", "raw"),
        ("-flat.vmdk", "raw"),
        ("a-s001.vmdk", "vmdk"),
        ("a-delta.vmdk", "vmdk"),
        ("a-f01.vmdk", "vmdk"),
        ("aflat.vmdk", "vmdk"),
        ("a.flat.vmdk", "vmdk"),
        ("a-flat.vmdk.vmdk", "vmdk"),
        ("a-flat.vmdk\n", "raw"),
        ("a-flat.qcow2", "qcow2"),
    ],
)
def test_a_suffix_tells(name: str, expected: str) -> None:
    choice = chosen(f"/x/{name}", "file", None, None)
    assert (choice.format, choice.decided) == (expected, False)
    assert chosen(f"/x/{name}", "device", None, None).format == "raw"
    assert chosen(f"/x/{name}", "file", "vhdx", None)[:2] == ("vhdx", True)


def _kept(format: str, kind: str, suffix: bytes) -> Kept:  # noqa: A002
    return Kept(format, SourceType(kind, suffix), Following())


@pytest.mark.parametrize(
    ("path", "kind", "counts"),
    [
        ("/x/a.img", "file", True),
        ("/y/B.IMG", "file", True),
        ("/x/a", "file", False),
        ("/x/a.img", "device", False),
        ("/x/a.raw", "file", False),
        ("/x/a.qcow2", "file", False),
        ("/x/a.img.tar", "file", False),
        ("/x/a-flat.img", "file", True),
    ],
)
def test_what_was_kept_counts_for_the_same_kind_and_suffix(
    path: str, kind: str, counts: bool
) -> None:
    kept = _kept("vmdk", "file", b".img")
    choice = chosen(path, kind, None, kept)
    assert (choice.format == "vmdk") == choice.decided == counts
    assert chosen(path, kind, "raw", kept)[:2] == ("raw", True)


def test_a_format_kept_of_a_vmdk_image_is_not_that_of_its_raw_extents() -> None:
    image, extent = _kept("vmdk", "file", b".vmdk"), _kept("raw", "file", b"-flat.vmdk")
    assert chosen("/x/a-flat.vmdk", "file", None, image)[:2] == ("raw", False)
    assert chosen("/x/a.vmdk", "file", None, extent)[:2] == ("vmdk", False)
    assert chosen("/x/B-Flat.vmdk", "file", None, extent)[:2] == ("raw", True)
    assert note_of(extent.source, "raw")
    assert not note_of(extent.source, "vmdk")
    assert not note_of(image.source, "raw")


def test_a_tar_is_never_read_as_what_was_kept() -> None:
    assert chosen("/x/a.tgz", "file", None, _kept("raw", "file", b".tgz")).format == TAR


def test_a_source_is_kind_and_suffix() -> None:
    assert source_of("/x.y/A.B.QCow2", kind="file") == SourceType("file", b".qcow2")
    assert source_of("/x/A-000001-Flat.VMDK", kind="file") == SourceType("file", b"-flat.vmdk")
    assert source_of("/x.y/a", kind="device") == SourceType("device", b"")
    assert len(source_of("/x/a." + "İ" * 126, kind="file").suffix) == 253
    assert source_of("/x/\udcff.\udcfe", kind="file").suffix == b".\xfe"


def _commands(path: str, guess: Guess, kind: str = "file") -> list[list[str]]:
    """What a refusal has to choose from; nothing, if there is none."""
    choice = chosen(path, kind, None, None)
    try:
        check(choice, guess, path, Advice(path, "n"))
    except ImageError as error:
        return [shlex.split(each) for each in re.findall("'(ventifs [^']*)'", str(error))]
    return []


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vhd", "vhdx", "tar", "packed", "foreign"])
@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/x/a.img", "file"),
        ("/x/a.raw", "file"),
        ("/x/a", "file"),
        ("/dev/a", "device"),
        ("/x/a-flat.vmdk", "file"),
    ],
)
def test_a_header_in_a_raw_disk_is_refused_with_both_commands(
    kind: str, path: str, source: str
) -> None:
    other = {"packed": ["tar"], "foreign": []}.get(kind, [kind])
    expected = [
        ["ventifs", "archive", path, "--name", "n", "--format", each] for each in ("raw", *other)
    ]
    assert _commands(path, Guess(kind, "a thing"), source) == expected


@pytest.mark.parametrize("kind", ["raw", "unknown", "luks"])
def test_a_guest_may_have_anything_else_on_its_raw_disk(kind: str) -> None:
    for path, source in (("/x/a.img", "file"), ("/x/a", "file"), ("/dev/a", "device")):
        assert _commands(path, Guess(kind, "a thing"), source) == []


@pytest.mark.parametrize(
    ("path", "kind", "formats"),
    [
        ("/x/a.qcow2", "raw", ["raw"]),
        ("/x/a.qcow2", "unknown", ["raw"]),
        ("/x/a.qcow2", "luks", ["raw"]),
        ("/x/a.qcow2", "vmdk", ["vmdk", "raw"]),
        ("/x/a.qcow2", "tar", ["tar", "raw"]),
        ("/x/a.qcow2", "packed", ["tar", "raw"]),
        ("/x/a.vhdx", "vhd", ["vhd", "raw"]),
        ("/x/a.vmdk", "qcow2", ["vmdk", "qcow2", "raw"]),
        ("/x/a.vhd", "raw", ["vhd", "raw"]),  # its footer may be damaged
        ("/x/a.tar", "qcow2", ["tar", "qcow2", "raw"]),
        ("/x/a.tar.gz", "raw", ["tar", "raw"]),
    ],
)
def test_content_that_contradicts_a_suffix_is_refused(
    path: str, kind: str, formats: list[str]
) -> None:
    assert [words[-1] for words in _commands(path, Guess(kind, "a thing"))] == formats


@pytest.mark.parametrize("kind", ["tar", "packed", "unknown"])
def test_tars_are_judged_by_their_reader(kind: str) -> None:
    assert _commands("/x/a.tar", Guess(kind, "a thing")) == []


def test_nothing_contradicts_what_was_decided() -> None:
    for choice in (
        chosen("/x/a.img", "file", "raw", None),
        chosen("/x/a.img", "file", None, _kept("raw", "file", b".img")),
    ):
        check(choice, Guess("qcow2", "a qcow2 image"), "/x/a.img", Advice())


@pytest.mark.parametrize(
    "path",
    [
        "/x/my disk.img",
        "/x/it's.img",
        '/x/$(a)`b`!\\"&;.img',
        "/x/\udcff.img",
        "/x/a\nb\x1b[1m'.img",
        "/x/ü.img",
    ],
)
def test_commands_are_quoted_for_a_shell(path: str) -> None:
    line = command_line("ventifs", path, "")
    assert line.isprintable()
    said = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert said.stdout.split(b"\0")[1:] == [path.encode("utf-8", "surrogateescape"), b"", b""]


def test_advice_repeats_the_run() -> None:
    advice = Advice("-x.img", "vm", ("--store", "s"), "qcow2", Following((b"/a",), (b"/dev/b",)))
    assert advice.choose("raw") == "ventifs archive ./-x.img --name vm --format raw --store s"
    assert advice.choose("vmdk") == (
        "ventifs archive ./-x.img --name vm --format vmdk --follow-backing /a --follow-device "
        "/dev/b --store s"
    )
    assert advice.follow_backing(b"/c") == (
        "ventifs archive ./-x.img --name vm --format qcow2 --follow-backing /a --follow-backing /c "
        "--follow-device /dev/b --store s"
    )
    assert advice.follow_device(b"/c d").endswith("--follow-device /c\\ d --store s")

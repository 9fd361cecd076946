"""What `ventifs archive` reads a source as, whatever a guest wrote into it; and what it follows.

Commands that messages advise are run as they stand.
"""

import os
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commanding import parsed, run
from tests.support.images import KIB, MIB, qemu_img, qemu_io, raw_image
from ventifs.api import thinning
from ventifs.cli.archiving import archive_disk
from ventifs.cli.archiving.archive_disk import find_disk
from ventifs.cli.program import ventifs
from ventifs.errors import VentifsError
from ventifs.image.formats.kept_choice import kept_key
from ventifs.store import Store
from ventifs.tree.archive.run_lock import RunLock

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")

SECRET = b"root:secret\n" * 1000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store and, in a directory that no image should reach, a secret."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/shadow").write_bytes(SECRET)
    run(tmp_path, "init", "--store", "s")
    return tmp_path


def _archive(home: Path, source: str, *more: str, expected: int = 0, name: str = "vm") -> str:
    """What it says on standard error."""
    words = ("archive", source, "--name", name, "--store", "s", *more)
    return run(home, *words, expected=expected).stderr.decode()


def _cat(home: Path, name: str = "vm") -> bytes:
    return run(home, "cat", name, "--store", "s").stdout


def _advised(said: str, program: str = "ventifs") -> list[list[str]]:
    """The commands in a message."""
    return [shlex.split(each) for each in re.findall(f"'({program} [^']*)'", said)]


def _run(home: Path, words: list[str], expected: int = 0) -> str:
    """Run a command that was advised."""
    if words[0] == "ventifs":
        return run(home, *words[1:], expected=expected).stderr.decode()
    done = subprocess.run(words, cwd=home, capture_output=True, check=True)
    return done.stderr.decode()


def _with_header(home: Path, name: str, below: str, size: int = 4 * MIB) -> Path:
    """A raw disk whose guest wrote a qcow2 header that names a file of the host."""
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", below, "-F", "raw", home / "header", "64K")
    path = home / name
    path.write_bytes((home / "header").read_bytes())
    os.truncate(path, size)
    return path


@pytest.mark.parametrize("name", ["vm.img", "vm.raw", "vm", "VM.IMG"])
def test_a_guest_does_not_read_its_host_by_a_header(home: Path, name: str) -> None:
    disk = _with_header(home, name, f"{home}/etc/shadow")
    said = _archive(home, name, expected=1)
    assert "but its content is that of a qcow2 image" in said
    assert parsed(home, "versions", "--store", "s") == []
    raw, qcow2 = _advised(said)
    said = _run(home, qcow2, expected=1)
    assert f"it refers to {home}/etc/shadow, which is not followed unless you allow it" in said
    _run(home, raw)
    assert _cat(home) == disk.read_bytes()
    with disk.open("r+b") as file:  # the guest goes on writing
        file.write(b"KDMV")
    _archive(home, name)
    assert _cat(home) == disk.read_bytes()


def test_a_header_that_a_guest_writes_later_changes_nothing(home: Path) -> None:
    raw_image(home / "vm.img", MIB)
    _archive(home, "vm.img")
    disk = _with_header(home, "vm.img", f"{home}/etc/shadow")
    _archive(home, "vm.img")
    assert _cat(home) == disk.read_bytes()


def test_a_kept_format_is_for_the_same_suffix_and_kind(home: Path) -> None:
    disk = _with_header(home, "vm", f"{home}/etc/shadow")
    _archive(home, "vm", "--format", "raw")
    kept = parsed(home, "versions", "--store", "s")[0]["kept"]
    assert (kept["format"], kept["source"], kept["suffix"]) == ("raw", "file", "")
    disk.rename(home / "vm.img")
    assert len(_advised(_archive(home, "vm.img", expected=1))) == 2
    _archive(home, "vm.img", "--format", "raw")
    (home / "vm.img").rename(home / "vm.qcow2")
    assert "which is not followed" in _archive(home, "vm.qcow2", expected=1)
    said = run(home, "stats", "vm", "--store", "s").stdout.decode()
    assert "kept for the next run: raw, while it is a file named *.img\n" in said


@pytest.fixture
def device(home: Path) -> Iterator[Path]:
    """A device whose content has a qcow2 header, as of a guest with a logical volume."""
    if os.geteuid():
        pytest.skip("only root can attach a loop device")
    disk = _with_header(home, "disk.img", f"{home}/etc/shadow", MIB)
    done = subprocess.run(
        ["losetup", "-f", "--show", "-r", disk], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop device can be attached here: {done.stderr.strip()}")
    path = Path(done.stdout.strip())
    try:
        yield path
    finally:
        subprocess.run(["losetup", "-d", path], check=True)


def test_devices_are_raw(home: Path, device: Path) -> None:
    (home / "lv.qcow2").symlink_to(device)
    data = (home / "disk.img").read_bytes()
    raw, qcow2 = _advised(_archive(home, "lv.qcow2", expected=1))
    assert "is not followed" in _run(home, qcow2, expected=1)
    _run(home, raw)
    _archive(home, "lv.qcow2")
    assert _cat(home) == data
    raw_image(home / "vm.img", MIB)
    _archive(home, "vm.img", name="other")
    assert len(_advised(_archive(home, str(device), name="other", expected=1))) == 2


def test_a_descriptor_in_a_raw_disk_names_no_neighbours(home: Path) -> None:
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", home / "x.vmdk", "64K")
    (home / "x-flat.vmdk").write_bytes(SECRET.ljust(64 * KIB, b"\0"))
    (home / "vm.img").write_bytes((home / "x.vmdk").read_bytes().ljust(MIB, b"\n"))
    raw, vmdk = _advised(_archive(home, "vm.img", expected=1))
    _run(home, vmdk, expected=1)
    said = _archive(home, "x.vmdk", name="x", expected=1)
    assert "--follow-backing" in said
    _run(home, _advised(said)[0])
    assert _cat(home, "x")[: len(SECRET)] == SECRET
    _run(home, raw)
    assert _cat(home) == (home / "vm.img").read_bytes()


@pytest.mark.parametrize(("kind", "name"), [("vpc", "vhd"), ("vhdx", "vhdx"), ("vmdk", "vmdk")])
def test_other_headers_in_a_raw_disk_are_refused(home: Path, kind: str, name: str) -> None:
    raw_image(home / "raw", MIB)
    more = ("-o", "subformat=fixed,force_size=on") if kind == "vpc" else ()
    qemu_img("convert", "-f", "raw", "-O", kind, *more, home / "raw", home / "vm.img")
    raw, other = _advised(_archive(home, "vm.img", expected=1))
    assert raw[-3:] == ["raw", *raw[-2:]]
    _run(home, other)
    assert _cat(home) == (home / "raw").read_bytes()
    assert parsed(home, "versions", "--store", "s")[0]["kept"]["format"] == name
    _archive(home, "vm.img")  # without the option
    assert _cat(home) == (home / "raw").read_bytes()
    _run(home, raw)
    assert _cat(home) == (home / "vm.img").read_bytes()


def test_a_raw_extent_of_a_vmdk_image_is_the_guests(home: Path) -> None:
    (home / "other.img").write_bytes(SECRET.ljust(64 * KIB, b"\0"))
    text = '# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 128 FLAT "other.img" 0\n'
    extent = home / "vm-flat.vmdk"
    extent.write_bytes(text.encode().ljust(64 * KIB, b"\0"))
    raw, vmdk = _advised(_archive(home, extent.name, "--follow-backing", ".", expected=1))
    assert vmdk[vmdk.index("--format") + 1] == "vmdk"
    assert "note: a raw extent of a VMDK image by its name" in _run(home, raw)
    assert _cat(home) == extent.read_bytes()
    _archive(home, extent.name)
    assert _cat(home) == extent.read_bytes()
    extent.write_bytes(bytes(64 * KIB))
    said = _archive(home, extent.name, name="other")
    assert "the .vmdk file that names it is usually the one to archive" in said
    said = run(home, "stats", "vm", "--store", "s").stdout.decode()
    assert "raw, while it is a file named *-flat.vmdk\n" in said


@pytest.mark.parametrize("name", ["backup", "vm.img", "b.ova", "packed.gz"])
def test_a_tar_that_is_not_called_one_is_refused(home: Path, name: str) -> None:
    with tarfile.open(home / name, "w:gz" if name == "packed.gz" else "w") as tar:
        tar.add(home / "etc/shadow", "shadow")
    raw, tar_command = _advised(_archive(home, name, expected=1))
    _run(home, raw)
    assert _cat(home) == (home / name).read_bytes()
    _run(home, [*tar_command, "--comment", "a tar"])
    assert run(home, "cat", "vm:/shadow", "--store", "s").stdout == SECRET


def test_a_disk_that_is_called_a_tar_is_refused(home: Path) -> None:
    _with_header(home, "vm.tar.gz", f"{home}/etc/shadow")
    tar, qcow2, raw = _advised(_archive(home, "vm.tar.gz", expected=1))
    assert "not a tar archive" in _run(home, tar, expected=1)
    assert "is not followed" in _run(home, qcow2, expected=1)
    _run(home, raw)


def test_a_disk_that_is_called_qcow2_is_refused(home: Path) -> None:
    raw_image(home / "vm.qcow2", MIB)
    said = _archive(home, "vm.qcow2", expected=1)
    assert "qcow2 by its name, but it is no qcow2 image" in said
    (raw,) = _advised(said)
    _run(home, raw)
    assert _cat(home) == (home / "vm.qcow2").read_bytes()


@pytest.mark.parametrize("kind", ["vdi", "qed", "parallels"])
def test_images_that_are_not_read_are_converted(home: Path, kind: str) -> None:
    raw_image(home / "raw", MIB)
    qemu_img("convert", "-f", "raw", "-O", kind, home / "raw", home / f"vm.{kind}")
    said = _archive(home, f"vm.{kind}", expected=1)
    (convert,) = _advised(said, "qemu-img")
    _run(home, convert)
    _archive(home, "NEW.qcow2")
    assert _cat(home).startswith((home / "raw").read_bytes())
    (raw,) = _advised(said)
    _run(home, raw)


def test_a_chain_needs_one_option_once(home: Path) -> None:
    (home / "images/old").mkdir(parents=True)
    raw_image(home / "images/old/base", MIB)
    chain = [
        ("old/base", "old/a.qcow2", "raw"),
        ("old/a.qcow2", "b.qcow2", "qcow2"),
        ("b.qcow2", "c.qcow2", "qcow2"),
    ]
    for below, above, kind in chain:
        path = home / "images" / below
        qemu_img("create", "-q", "-f", "qcow2", "-F", kind, "-b", path, home / "images" / above)
        qemu_io(home / "images" / above, "write -P 7 0 1k")
    expected = b"\7" * 1024 + (home / "images/old/base").read_bytes()[1024:]
    said = _archive(home, "images/c.qcow2", expected=1)
    notes = [
        f"read, too: {home}/images/{each}, by --follow-backing {home}/images, which is kept "
        "with the name"
        for each in ("b.qcow2", "old/a.qcow2", "old/base")
    ]
    said = _run(home, _advised(said)[0])
    assert said.splitlines() == [f"note: {note}" for note in notes]
    assert _cat(home) == expected
    assert _archive(home, "images/c.qcow2") == said  # by what is kept
    assert parsed(home, "versions", "--store", "s")[-1]["disk"]["notes"] == notes
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "c.qcow2", home / "images/d.qcow2")
    _archive(home, "images/d.qcow2")  # the next snapshot
    assert _cat(home) == expected
    kept = parsed(home, "stats", "vm", "--store", "s")["kept"]
    assert kept["follow_backing"] == [{"path": f"{home}/images"}]
    # Another image under the name reaches nothing else by it.
    qemu_img(
        "create",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        f"{home}/etc/shadow",
        home / "images/e.qcow2",
        "64K",
    )
    said = _archive(home, "images/e.qcow2", expected=1)
    assert _advised(said)[0].count("--follow-backing") == 2
    _archive(home, "images/d.qcow2", "--follow-backing", "etc", expected=1)  # stands alone
    _archive(home, "images/d.qcow2", "--follow-nothing", expected=1)
    _archive(home, "images/old/base", "--follow-nothing")
    assert parsed(home, "stats", "vm", "--store", "s")["kept"]["follow_backing"] == []
    _archive(home, "images/d.qcow2", expected=1)


def test_an_uploaded_image_does_not_read_its_neighbours(home: Path) -> None:
    (home / "other.img").write_bytes(SECRET.ljust(64 * KIB, b"\0"))
    for name in (
        "other.img",
        "./other.img",
        "etc/../other.img",
        f"file:{home}/other.img",
        'json:{"driver":"raw","file.filename":"other.img"}',
    ):
        qemu_img(
            "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, home / "up.qcow2", "64K"
        )
        said = _archive(home, "up.qcow2", "--dry-run", expected=1)
        assert "--follow-backing" in said
    options = f"data_file={home}/other.img,data_file_raw=on"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, home / "up.qcow2", "64K")
    said = _archive(home, "up.qcow2", expected=1)
    _run(home, _advised(said)[0])


def test_what_qemu_alone_reaches_is_left_to_qemu(home: Path) -> None:
    """A layer that is not read here, and a driver that is not understood."""
    raw_image(home / "raw", MIB)
    qemu_img("convert", "-f", "raw", "-O", "vdi", home / "raw", home / "base")
    qemu_img("create", "-q", "-f", "qcow2", "-F", "vdi", "-b", "base", home / "vm.qcow2")
    said = _archive(home, "vm.qcow2", expected=1)
    said = _run(home, _advised(said)[0], expected=1)
    assert f"its backing file {home}/base is of the format 'vdi', which is not read here" in said
    _run(home, _advised(said, "qemu-img")[0])
    _archive(home, "NEW.qcow2")
    assert _cat(home) == (home / "raw").read_bytes()
    (home / "NEW.qcow2").unlink()
    name = 'json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"raw"}}'
    qemu_img(
        "create",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        name,
        home / "x.qcow2",
        f"{MIB - 512}",
    )
    said = _archive(home, "x.qcow2", expected=1)
    assert "an option of QEMU, 'offset', that is not understood" in said
    _run(home, _advised(said, "qemu-img")[0])
    _archive(home, "NEW.qcow2")
    assert _cat(home) == (home / "raw").read_bytes()[512:]


def test_dirty_bitmaps_are_for_what_is_read_as_qcow2(home: Path) -> None:
    disk = _with_header(home, "vm.img", f"{home}/etc/shadow")
    before = disk.read_bytes()
    for more in ((), ("--format", "raw"), ("--format", "qcow2")):
        _archive(home, "vm.img", "--dirty-bitmap", *more, expected=1)
    assert disk.read_bytes() == before
    qemu_img("create", "-q", "-f", "qcow2", home / "vm.qcow2", "1M")
    _archive(home, "vm.qcow2", "--dirty-bitmap")
    marked = (home / "vm.qcow2").read_bytes()
    assert b"ventifs-" in marked
    _archive(home, "vm.qcow2", "--format", "raw")  # and so the bitmap is the guest's own
    assert (home / "vm.qcow2").read_bytes() == marked == _cat(home)


def test_what_is_kept_goes_with_the_last_version_and_stays_in_its_store(home: Path) -> None:
    _with_header(home, "vm.img", f"{home}/etc/shadow")
    _archive(home, "vm.img", "--format", "raw", "--time", "2026-01-01")
    _archive(home, "vm.img", "--time", "2026-01-02")
    run(home, "init", "--store", "t")
    run(home, "copy", "vm", "--store", "s", "--to", "t")
    words = ("archive", "vm.img", "--name", "vm", "--store", "t")
    assert b"content is that of" in run(home, *words, expected=1).stderr
    run(home, "forget", "vm@2026-01-02", "--store", "s")
    _archive(home, "vm.img", "--dry-run")
    run(home, "rebuild-index", "--store", "s")
    _archive(home, "vm.img", "--dry-run")
    shutil.rmtree(home / "s/index")
    shutil.rmtree(home / "s/statcache", ignore_errors=True)
    _archive(home, "vm.img", "--time", "2026-01-03")  # it is no cache
    run(home, "forget", "vm@2026-01-01", "vm@2026-01-03", "--force", "--store", "s")
    with Store.open(home / "s") as store:
        assert all(record.key.startswith(b"forgotten") for record in store.records())
    _archive(home, "vm.img", expected=1)
    run(home, "undelete", "vm@2026-01-02", "--store", "s")
    _archive(home, "vm.img", expected=0)  # with what the name had kept


def test_forgetting_leaves_what_another_run_keeps(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run commits between what is read here and what is locked."""
    _with_header(home, "vm.img", f"{home}/etc/shadow")
    _archive(home, "vm.img", "--format", "raw", "--time", "2026-01-01")
    emptied = thinning._names_emptied
    before = [lambda: _archive(home, "vm.img", "--time", "2026-01-02")]

    def archived_then_emptied(*words: Any) -> list[str]:
        names = emptied(*words)
        while before:
            before.pop()()
        return names

    monkeypatch.setattr(thinning, "_names_emptied", archived_then_emptied)
    with ventifs.make_context("v", ["forget", "vm@latest", "--force", "--store", f"{home}/s"]) as c:
        ventifs.invoke(c)
    assert [each["time"][:10] for each in parsed(home, "versions", "--store", "s")] == [
        "2026-01-02"
    ]
    assert parsed(home, "stats", "vm", "--store", "s")["kept"]["format"] == "raw"
    _archive(home, "vm.img")


def test_a_run_does_not_bring_back_what_another_dropped(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run commits after this one has read what is kept, and before it has its lock."""
    qemu_img("create", "-q", "-f", "qcow2", home / "vm.qcow2", "1M")
    _archive(home, "vm.qcow2", "--follow-backing", ".")
    found = find_disk

    def found_then_dropped(*words: Any) -> Any:
        disk = found(*words)
        _archive(home, "vm.qcow2", "--follow-nothing")
        return disk

    monkeypatch.setattr(archive_disk, "find_disk", found_then_dropped)
    words = ["archive", f"{home}/vm.qcow2", "--name", "vm", "--store", f"{home}/s", "--jobs", "1"]
    with (
        ventifs.make_context("v", words) as context,
        pytest.raises(VentifsError, match="vm: another run has changed what is kept"),
    ):
        ventifs.invoke(context)
    assert parsed(home, "stats", "vm", "--store", "s")["kept"]["follow_backing"] == []


def test_forgetting_leaves_what_a_run_at_work_may_rely_on(home: Path) -> None:
    _with_header(home, "vm.img", f"{home}/etc/shadow")
    _archive(home, "vm.img", "--format", "raw")
    with Store.open(home / "s") as store, RunLock(store, "vm"):
        assert "another archive run or rename is at work" in _archive(home, "vm.img", expected=1)
        run(home, "forget", "vm@latest", "--force", "--store", "s")
    assert parsed(home, "versions", "--store", "s") == []
    assert "its content is that of" in _archive(home, "vm.img", expected=1)


def test_an_encrypted_disk_is_archived_as_it_is_with_a_note(home: Path) -> None:
    (home / "vm.img").write_bytes(b"LUKS\xba\xbe\0\2" + bytes(MIB))
    said = _archive(home, "vm.img")
    assert (
        "note: LUKS-encrypted, and archived so: to have its files, archive the device that" in said
    )


def test_messages_repeat_the_run(home: Path) -> None:
    disk = _with_header(home, "my 'disk' $(x).img", f"{home}/etc/shadow")
    said = _archive(
        home, disk.name, "--tag", "a b", "--drop-free", "--time", "2026-01-01", expected=1
    )
    start = said.index("choose: '") + len("choose: '")
    line = said[start : said.index("' archives it bit for bit")]
    words = shlex.split(line)
    assert words[:8] == [
        "ventifs",
        "archive",
        disk.name,
        "--name",
        "vm",
        "--format",
        "raw",
        "--store",
    ]
    assert sorted(words[9:]) == ["--drop-free", "--tag", "--time", "2026-01-01", "a b"]
    _run(home, words)
    version = parsed(home, "versions", "--store", "s")[0]
    assert version["tags"] == ["a b"]
    assert version["disk"]["free_dropped"]


def test_a_damaged_record_is_replaced_by_an_option(home: Path) -> None:
    raw_image(home / "vm.img", MIB)
    _archive(home, "vm.img")
    with Store.open(home / "s", "write") as store:
        store.commit([(kept_key("vm"), b"?")], store.records(kept_key("vm")))
    assert "--format takes its place" in _archive(home, "vm.img", expected=1)
    assert "kept" not in parsed(home, "stats", "vm", "--store", "s")
    assert "kept" not in parsed(home, "versions", "--store", "s")[0]
    _archive(home, "vm.img", "--format", "raw")
    assert parsed(home, "stats", "vm", "--store", "s")["kept"]["format"] == "raw"


@pytest.mark.parametrize("format", ["raw", "vhd", "vhdx"])
def test_nothing_is_followed_from_formats_that_refer_to_nothing(home: Path, format: str) -> None:  # noqa: A002
    raw_image(home / "vm.img", MIB)
    more = ("--format", format, "--follow-backing", ".")
    said = _archive(home, "vm.img", *more, expected=2)
    assert f"this is archived as {format}, which refers to no other file" in said
    assert parsed(home, "versions", "--store", "s") == []


@pytest.mark.parametrize(
    ("option", "what"), [("--follow-backing", "directory"), ("--follow-device", "device")]
)
def test_what_is_given_to_be_followed_has_to_be_there(home: Path, option: str, what: str) -> None:
    raw_image(home / "vm.img", MIB)
    assert f"{option} gone: no such {what}" in _archive(home, "vm.img", option, "gone", expected=1)

"""Programs that can open nothing but what they are given, on every version of Landlock."""

import importlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.images import (
    MIB,
    add_bitmap,
    bytes_of,
    qemu_img,
    qemu_io,
    read_here,
    remove_bitmap,
)
from tests.support.memorydisk import MemoryDisk
from ventifs.image.confinement import confined, landlock
from ventifs.image.confinement.confined import Given, path
from ventifs.image.confinement.landlock import NotConfined
from ventifs.image.confinement.sandbox import Apart, ProcessLimits
from ventifs.image.disk import ImageError
from ventifs.image.formats import qcow2_bitmap as bitmap
from ventifs.image.formats.qcow2_header import parse
from ventifs.image.formats.raw import RawDisk
from ventifs.image.survey import Survey
from ventifs.image.survey_events import Event, Noted

pytestmark = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
LIMITS = ProcessLimits(1 << 30, 10, 10)


def _run(*command: str, given: Given | None = None) -> tuple[int, str, str]:
    process = confined.start(command, given or Given())
    out, error = process.communicate()
    return process.returncode, out.decode(), error.decode()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that everybody may read."""
    file = tmp_path / "secret"
    file.write_text("the secret")
    file.chmod(0o644)
    return file


@pytest.fixture
def fd(secret: Path) -> Iterator[int]:
    """The same file, open."""
    opened = os.open(secret, os.O_RDWR)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("name", ["/etc/passwd", "/proc/self/environ", "/dev/urandom", "/etc", "/"])
def test_no_other_file_is_opened(secret: Path, name: str) -> None:
    for what in (name, str(secret)):
        code, out, error = _run("cat", what)
        assert (code, out) == (1, "")
        assert "Permission denied" in error
    assert secret.read_text() == "the secret"  # here, nothing has changed


@pytest.mark.parametrize("version", range(1, 8))
def test_older_versions_deny_what_they_know(
    secret: Path, fd: int, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    if version > landlock.version():
        pytest.skip("this kernel's Landlock is older")
    monkeypatch.setattr(landlock, "version", lambda: version)
    assert "Permission denied" in _run("cat", str(secret))[2]
    assert _run("cat", path(fd), given=Given(reading=[fd])) == (0, "the secret", "")


def test_what_is_given_is_opened_again(secret: Path, fd: int) -> None:
    write = f"echo changed > {path(fd)}"
    assert "Permission denied" in _run("sh", "-c", write, given=Given(reading=[fd]))[2]
    assert "Permission denied" in _run("sh", "-c", f"echo > {secret}", given=Given([fd]))[2]
    assert secret.read_text() == "the secret"
    assert _run("sh", "-c", write, given=Given(writing=[fd])) == (0, "", "")
    assert secret.read_text() == "changed\n"


def test_a_directory_is_given_with_what_is_in_it(tmp_path: Path, secret: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(secret)
    opened = os.open(top, os.O_RDONLY)
    given = Given(within=[opened])
    assert _run("sh", "-c", f"echo x > {path(opened, b'made')}", given=given) == (0, "", "")
    assert (top / "made").read_text() == "x\n"
    for outside in (b"link", b"../secret"):
        assert "Permission denied" in _run("cat", path(opened, outside), given=given)[2]
    os.close(opened)


def test_no_other_program_is_started(tmp_path: Path) -> None:
    assert "Permission denied" in _run("sh", "-c", "exec /bin/cat /dev/null")[2]


@pytest.mark.skipif(landlock.version() < 4, reason="Landlock knows no sockets here")
def test_nothing_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, _, error = _run("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}")
    assert code
    assert "Permission denied" in error


@pytest.mark.skipif(landlock.version() < 6, reason="Landlock knows no signals here")
def test_nothing_else_gets_signals() -> None:
    code, _, error = _run("sh", "-c", f"kill -0 {os.getpid()}")
    assert code
    assert "not permitted" in error


def test_memory_and_time_are_limited() -> None:
    process = confined.start(["sh", "-c", "kill -STOP $$"], Given(), cpu_s=7)
    try:
        assert resource.prlimit(process.pid, resource.RLIMIT_CPU) == (7, 7)
        assert resource.prlimit(process.pid, resource.RLIMIT_AS)[0] == 4 << 30
        assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()


def test_what_refers_to_nothing_may_run_without_landlock(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    process = confined.start(["cat", str(secret)], Given(), required=False)
    assert process.communicate() == (b"the secret", b"")
    assert not process.returncode


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        confined.start(["no-such-program"], Given())


# QEMU's tools


@pytest.fixture
def image(tmp_path: Path, secret: Path) -> Path:
    """An image whose header names other files, as an uploaded one may."""
    made = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", secret, made, "1M")
    return made


def test_a_backing_file_is_not_opened(image: Path, secret: Path) -> None:
    opened = os.open(image, os.O_RDWR)
    code, _, error = _run(
        "qemu-img",
        "info",
        "--backing-chain",
        "-f",
        "qcow2",
        path(opened),
        given=Given(writing=[opened]),
    )
    os.close(opened)
    assert code
    assert f"'{secret}': Permission denied" in error


def test_bitmaps_are_added_whatever_the_header_names(image: Path, secret: Path) -> None:
    secret.unlink()
    os.mkfifo(secret)  # who opens it waits
    add_bitmap(image, "b")
    disk = read_here(image, "qcow2")
    assert bitmap.dirty(disk, "b") == [(MIB - bitmap.GRANULARITY, MIB)]
    disk.close()
    remove_bitmap(image, "b")
    file = RawDisk(str(image))
    assert parse(file.read_upto, "").backing == os.fsencode(secret)
    file.close()


def test_without_landlock_bitmaps_are_refused(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.read_bytes()
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(NotConfined, match="this kernel has no Landlock"):
        _run("cat", "/etc/passwd")
    with pytest.raises(ImageError, match="bitmaps need 'qemu-img': this kernel has") as e:
        add_bitmap(image, "b")
    assert "\n" not in str(e.value)
    assert image.read_bytes() == before


def test_an_external_data_file_is_not_opened(tmp_path: Path) -> None:
    image, data = tmp_path / "image", tmp_path / "data"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={data}", image, "1M")
    qemu_io(image, "write -P 7 0 1M", kind="qcow2")
    data.rename(tmp_path / "elsewhere")
    add_bitmap(image, "b")
    (tmp_path / "elsewhere").rename(data)
    disk = read_here(image, "qcow2")
    assert bitmap.dirty(disk, "b") == [(MIB - bitmap.GRANULARITY, MIB)]
    assert bytes_of(disk) == b"\7" * MIB
    disk.close()
    qemu_io(image, "write -P 8 0 64k", kind="qcow2")
    disk = read_here(image, "qcow2")
    assert bitmap.dirty(disk, "b") == [(0, 64 << 10), (MIB - bitmap.GRANULARITY, MIB)]
    assert bytes_of(disk) == b"\10" * (64 << 10) + b"\7" * (MIB - (64 << 10))
    disk.close()
    data.rename(tmp_path / "elsewhere")
    remove_bitmap(image, "b")


# Parsers


def _told(what: str) -> Iterator[Event]:
    yield Noted(what)


def test_a_parser_opens_no_files(secret: Path) -> None:
    def tell() -> Iterator[Event]:
        try:
            yield Noted(secret.read_text())
        except OSError as error:
            yield Noted(str(error.strerror))

    for is_confined, expected in ((True, "Permission denied"), (False, "the secret")):
        with Apart(tell, LIMITS, confined=is_confined) as events:
            assert list(events) == [Noted(expected)]
        assert not events.problem


def test_a_parser_finds_modules_when_it_needs_them() -> None:
    def tell() -> Iterator[Event]:
        importlib.import_module("wave")
        yield Noted(b"a\x80".decode("cp437"))

    assert "wave" not in sys.modules
    with Apart(tell, LIMITS, confined=True) as events:
        assert list(events) == [Noted("aÇ")]
    assert not events.problem


def test_a_parser_runs_where_there_is_no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the disk has a note that says so."""
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with Apart(lambda: _told("ok"), LIMITS, confined=True) as events:
        assert list(events) == [Noted("ok")]
    (noted,) = _notes()
    assert noted.startswith("this kernel has no Landlock: ")


def test_where_there_is_landlock_there_is_no_note() -> None:
    assert _notes() == []


def _notes() -> list[str]:
    """What is noted of a disk with nothing known on it."""
    with Survey(MemoryDisk(MIB, {}), free=False) as survey:
        return [event.text for event in survey if isinstance(event, Noted)]


def test_a_parser_does_not_run_where_landlock_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(rules: object) -> None:
        raise NotConfined("Landlock cannot be used: Operation not permitted")

    def tell() -> Iterator[Event]:
        (tmp_path / "run").touch()
        yield Noted("run")

    monkeypatch.setattr(landlock, "restrict", refuse)
    with Apart(tell, LIMITS, confined=True) as events:
        assert list(events) == []
    assert events.problem == "Landlock cannot be used: Operation not permitted"
    assert not (tmp_path / "run").exists()


def test_a_parser_has_no_capability_but_to_read(secret: Path) -> None:
    """By what the kernel says of the child while it waits for the pipe's other end."""
    ready, go = os.pipe(), os.pipe()

    def tell() -> Iterator[Event]:
        os.write(ready[1], b".")
        os.read(go[0], 1)
        yield Noted(str(os.getpid()))

    with Apart(tell, LIMITS, confined=True) as events:
        os.read(ready[0], 1)
        lines = Path(f"/proc/{events._pid}/status").read_text().splitlines()
        os.write(go[1], b".")
        assert list(events) == [Noted(str(events._pid))]
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    assert status["NoNewPrivs"] == "1"
    for held in ("CapEff", "CapPrm", "CapInh"):
        assert int(status[held], 16) & ~(1 << 2) == 0
    for end in (*ready, *go):
        os.close(end)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has what is given up")
@pytest.mark.parametrize("version", [0, landlock.version()])
def test_a_parser_of_root_changes_no_other_users_files(
    secret: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    os.chown(secret, 12345, 12345)
    monkeypatch.setattr(landlock, "version", lambda: version)

    def tell() -> Iterator[Event]:
        for change in (partial(os.chmod, secret, 0o777), partial(os.chown, secret, 0, 0)):
            try:
                change()
            except OSError as error:
                yield Noted(str(error.strerror))

    with Apart(tell, LIMITS, confined=True) as events:
        assert list(events) == [Noted("Operation not permitted")] * 2
    assert (secret.stat().st_uid, secret.stat().st_mode & 0o777) == (12345, 0o644)

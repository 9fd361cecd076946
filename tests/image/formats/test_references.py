"""What images refer to: followed beneath a directory or at a device, and nowhere else."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ventifs.image.disk import ImageError
from ventifs.image.formats import references
from ventifs.image.formats.advice import Advice, Following
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.references import References


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Directories with files that hold their own paths, and a secret beside them."""
    for path in ("images/base", "images/sub/base", "other/base", "secret"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    for path in ("images/top", "images/sub/top", "top"):
        (tmp_path / path).write_text("a layer")
    yield tmp_path
    assert len(os.listdir("/proc/self/fd")) < 100


def _open(layer: Path, name: str | bytes, *directories: str | Path) -> str:
    """What is in the file that a layer names."""
    opener = References(Following(tuple(os.fsencode(each) for each in directories)))
    above = RawDisk(str(layer))
    before = sorted(os.listdir("/proc/self/fd"))
    try:
        below = opener.open(os.fsencode(name), above)
        try:
            assert below.place == os.path.realpath(below.place)
            assert os.stat(below.place).st_ino == below.status.st_ino
            return below.read_upto(0, 100).decode()
        finally:
            below.close()
    finally:
        assert sorted(os.listdir("/proc/self/fd")) == before
        above.close()


def _refusal(layer: Path, name: str | bytes, *directories: str | Path) -> str:
    with pytest.raises(ImageError) as caught:
        _open(layer, name, *directories)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "base",
        "./base",
        "sub/../base",
        "../images/base",
        "{}/base",
        "{}//./base",
        "sub/./../sub/../base",
    ],
)
def test_files_beneath_a_directory_are_followed(home: Path, name: str) -> None:
    name = name.format(home / "images")
    assert _open(home / "images/top", name, home / "images") == "images/base"
    assert _open(home / "images/top", name, home / "other", home / "images") == "images/base"
    assert _open(home / "images/top", name, home) == "images/base"
    assert _open(home / "images/top", name, "/") == "images/base"


def test_relative_names_start_at_the_layer_that_names_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home / "other")
    assert _open(home / "images/top", "base", home / "images") == "images/base"
    assert _open(home / "images/sub/top", "base", home / "images") == "images/sub/base"
    assert _open(home / "images/sub/top", "../base", home / "images") == "images/base"
    assert _open(Path("../images/top"), "base", home / "images") == "images/base"
    assert _open(home / "images/sub/top", "../../other/base", home / "other") == "other/base"


@pytest.mark.parametrize(
    "name",
    [
        "base",
        "sub/base",
        "../secret",
        "/etc/shadow",
        "/etc/passwd",
        "../other/../secret",
        "../../../../../etc/passwd",
    ],
)
def test_nothing_is_followed_unless_it_is_allowed(home: Path, name: str) -> None:
    assert "not followed unless you allow it" in _refusal(home / "images/top", name)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        "../images2/x",
        "{}/../secret",
        "{}/sub/../../secret",
        "{}2",
    ],
)
def test_nothing_outside_is_followed(home: Path, name: str) -> None:
    (home / "images2").mkdir()
    (home / "images2/x").write_text("x")
    refusal = _refusal(home / "images/top", name.format(home / "images"), home / "images")
    assert "--follow-backing" in refusal
    assert "cannot be opened" not in refusal


@pytest.mark.parametrize(
    "name",
    [
        "base",
        "sub/base",
        "../other/base",
        "sub/../base",
        "/{}/base",
        "/{}/sub/../base",
        "sub/../../other/base",
        "../images/base",
        "link/base",
        "sub/link/../base",
        "/{}/link/base",
    ],
)
def test_the_command_that_a_refusal_has_allows_it(home: Path, name: str) -> None:
    """Once for each symbolic link on the way."""
    (home / "images/link").symlink_to(home / "images/sub")
    (home / "images/sub/link").symlink_to(home / "images/sub")
    name = name.format(home / "images")
    allowed: list[str] = []
    for _ in range(3):
        try:
            assert _open(home / "images/top", name, *allowed).endswith("base")
        except ImageError as error:
            words = str(error).rpartition("'ventifs")[2].rstrip("'").split()
            allowed.append(words[words.index("--follow-backing") + 1])
        else:
            break
    else:
        assert name == "sub/link/../base"  # whose way the kernel and a reader see differently


def test_the_directory_may_be_named_by_symbolic_links(home: Path) -> None:
    (home / "link").symlink_to("images")
    for name in ("base", f"{home}/link/base", f"{home}/link/sub/../base"):
        assert _open(home / "images/top", name, home / "link") == "images/base"
        assert _open(home / "link/top", name, home / "link") == "images/base"
    assert _open(home / "link/sub/top", "../base", home / "link") == "images/base"
    assert _open(home / "link/top", "base", home / "images") == "images/base"


def test_a_layer_that_is_a_symbolic_link_names_files_beside_the_link(home: Path) -> None:
    """As QEMU has it, which goes by the path that it was given."""
    (home / "other/link").symlink_to("../images/top")
    assert _open(home / "other/link", "base", home) == "other/base"


def test_no_symbolic_link_on_the_way_is_followed(home: Path) -> None:
    (home / "images/out").symlink_to(home / "other")
    (home / "images/shadow").symlink_to("/etc/passwd")
    (home / "images/proc").symlink_to("/proc/self")
    for name in ("out/base", "sub/../out/base", "proc/environ", "proc/cwd/x"):
        refusal = _refusal(home / "images/top", name, home / "images")
        assert "on the way is a symbolic link" in refusal
    assert "is a symbolic link, and none" in _refusal(home / "images/top", "shadow", home)


def test_a_name_that_turns_into_a_symbolic_link_is_not_followed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and its opening, as in a race."""
    base = home / "images/base"

    def swap(*_: object) -> None:
        base.unlink()
        base.symlink_to(home / "secret")

    monkeypatch.setattr(references._PathWalk, "_check", swap)
    assert "cannot be opened" in _refusal(home / "images/top", "base", home / "images")


def test_a_directory_that_turns_into_a_symbolic_link_is_not_followed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = os.stat

    def swap(path: object, **more: object) -> os.stat_result:
        status: os.stat_result = real(path, **more)
        if path == b"sub" and stat.S_ISDIR(status.st_mode):
            (home / "images/sub").rename(home / "was")
            (home / "images/sub").symlink_to(home / "other")
        return status

    monkeypatch.setattr(os, "stat", swap)
    assert "cannot be opened" in _refusal(home / "images/top", "sub/base", home / "images")


def test_a_directory_that_is_moved_away_meanwhile_leads_nowhere_else(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`..` goes back to where the walk came from, whatever is above it now."""
    step = references._PathWalk._step
    (home / "deep/er").mkdir(parents=True)
    (home / "deep/base").write_text("deep/base")

    def moved(walk: references._PathWalk, component: bytes, fds: list[int], shown: bytes) -> None:
        step(walk, component, fds, shown)
        if component == b"sub":
            (home / "images/sub").rename(home / "deep/er/sub")

    monkeypatch.setattr(references._PathWalk, "_step", moved)
    assert _open(home / "images/top", "sub/../base", home / "images") == "images/base"


def test_what_is_no_regular_file_is_refused_without_waiting(home: Path) -> None:
    os.mkfifo(home / "images/pipe")
    for name in ("pipe", "sub", "sub/", ".", "sub/.."):
        assert "not a regular file" in _refusal(home / "images/top", name, home / "images")
    refusal = _refusal(home / "images/top", "none/base", home / "images")
    assert refusal == f"{home}/images/none/base: cannot be opened: no such file or directory"
    assert "not a directory" in _refusal(home / "images/top", "base/base", home / "images")
    assert "no such file" in _refusal(home / "images/top", "../gone/x", home / "gone")


@pytest.mark.parametrize("name", ["", "a\0b", "a" * 5000])
def test_names_that_no_file_has_are_refused(home: Path, name: str) -> None:
    assert "by a name that no file can have" in _refusal(home / "images/top", name, home)


def test_names_of_any_bytes_are_followed(home: Path) -> None:
    name = b"\xff\n\x1b it's"
    (home / "images" / os.fsdecode(name)).write_text("odd")
    assert _open(home / "images/top", name, home / "images") == "odd"
    assert "\\xff\\n\\x1b it's" in _refusal(home / "images/top", name)


@pytest.fixture
def device(home: Path) -> Iterator[Path]:
    """A loop device over the file `images/base`."""
    if os.geteuid():
        pytest.skip("only root can attach a loop device")
    (home / "images/base").write_bytes(b"on a device".ljust(4096, b"\0"))
    done = subprocess.run(
        ["losetup", "-f", "--show", "-r", home / "images/base"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no loop device can be attached here: {done.stderr.strip()}")
    path = Path(done.stdout.strip())
    try:
        yield path
    finally:
        subprocess.run(["losetup", "-d", path], check=True)


def _from_device(layer: Path, name: str | Path, *devices: str | Path) -> bytes:
    above = RawDisk(str(layer))
    try:
        opener = References(Following((b"/dev",), tuple(os.fsencode(each) for each in devices)))
        below = opener.open(os.fsencode(name), above)
        data = below.read(0, 11)
        below.close()
        return data
    finally:
        above.close()


def test_a_device_is_followed_by_its_very_path(home: Path, device: Path) -> None:
    layer = home / "images/top"
    with pytest.raises(ImageError, match=f"--follow-device {device}'"):
        _from_device(layer, device)
    assert _from_device(layer, device, device) == b"on a device"
    link = home / "lv"
    link.symlink_to(device)
    assert _from_device(layer, link, link) == b"on a device"
    assert _from_device(layer, "../lv", link) == b"on a device"
    with pytest.raises(ImageError, match="--follow-device"):
        _from_device(layer, device, link)


def test_only_a_device_is_followed_as_one(home: Path) -> None:
    os.mkfifo(home / "pipe")
    for name in ("secret", "pipe", "images"):
        with pytest.raises(ImageError, match="not a block device, which --follow-device is for"):
            _from_device(home / "images/top", home / name, home / name)
    with pytest.raises(ImageError, match="cannot be opened: no such file"):
        _from_device(home / "images/top", "/none", "/none")
    with pytest.raises(ImageError, match="not a block device"):
        _from_device(home / "images/top", "/dev/null", "/dev/null")


def test_the_advice_keeps_what_is_allowed_already(home: Path) -> None:
    following = Following((os.fsencode(home / "other"),))
    layer = RawDisk(str(home / "images/top"))
    with pytest.raises(ImageError) as caught:
        References(following, Advice("s", "n", (), "", following)).open(b"base", layer)
    layer.close()
    assert str(caught.value).endswith(
        f"'ventifs archive s --name n --follow-backing {home}/other --follow-backing {home}/images'"
    )

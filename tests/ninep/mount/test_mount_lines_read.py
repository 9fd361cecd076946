"""Printed mount lines are read back by their readers: libmount, a shell, systemd's rules."""

import ctypes
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import libmount
from ventifs.net.address import parse_address
from ventifs.ninep.mount.options import (
    DATA_MAX,
    MountError,
    fstab_line,
    mount_line,
    mount_options,
    unit_line,
)

TCP = parse_address("tcp://192.0.2.1")
ODD = " \t\"'\\,#=:%$`~;&|<>()[]{}*?!\r\n\x1b\x7f\x9b\u202e\u2028\u00a0\xe9\u6f22\udcff\\040"
ANAMES = st.text(st.sampled_from(ODD + "ab"), max_size=12).map(lambda path: f"web01:/{path}")
SYSTEMD = Path("/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so")
UNQUOTED = 1 << 5 | 1 << 1  # EXTRACT_UNQUOTE, EXTRACT_CUNESCAPE: what it reads ExecStart= with
READABLE = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def passed_on(fstab: Path, aname: str, directory: str = "/mnt", more: str = "") -> dict[str, str]:
    """The options that libmount gives the kernel, as the kernel splits them."""
    line = fstab_line(TCP, aname, directory, now_ns=0, more=more)
    assert line is not None
    assert line.isprintable()
    found = libmount.read(fstab, line)
    assert (found.source, found.directory) == ("192.0.2.1", directory)
    assert {"ro", "nosuid", "nodev"} <= set(found.flags.split(","))
    assert found.options is not None
    options = found.options.split(",")
    return {key: value for key, _, value in (option.partition("=") for option in options)}


@pytest.mark.parametrize(
    "path",
    [
        "etc",
        "a b",
        " a",
        "a ",
        "a#b",
        "#",
        "a\\b",
        "\\040",
        "a\\134",
        "a'b",
        "it's",
        "a=b",
        "%i",
        "$HOME",
        "\xe9",
        "\u6f22\u5b57",
        "a;b",
        "~",
        "a@b:c",
    ],
)
def test_libmount_passes_on_what_is_meant(tmp_path: Path, path: str) -> None:
    fstab, directory = tmp_path / "fstab", tmp_path / "m t\\#"
    directory.mkdir()
    options = passed_on(fstab, f"web01:/{path}", str(directory), more="uname=a\\b c#'")
    assert options["aname"] == f"web01:/{path}"
    assert options["uname"] == "a\\b c#'"
    assert set(options) == {
        "trans",
        "port",
        "version",
        "msize",
        "cache",
        "access",
        "uname",
        "aname",
    }
    if os.geteuid() == 0:
        done = libmount.pretend(fstab, str(directory))
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "path",
    [
        'a"b',
        '"',
        '"a"',
        'a\\"b',
        "a,b",
        "a,rw",
        'a"b,c"',
        "a\\",
        "\\",
        "a\rb",
        "a\nb",
        "\x1b[31m",
        "\x9b",
        "\x7f",
        "\u202e",
        "\u2028",
        "\udcff",
        "a\tb",
        "\u200b",
        "x" * DATA_MAX,
    ],
)
def test_what_a_line_cannot_say_is_refused(path: str) -> None:
    with pytest.raises(MountError, match="mount a directory above it") as caught:
        fstab_line(TCP, f"web01:/{path}", "/mnt", now_ns=0)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("directory", ["/mnt/\r", "/mnt/\n", "/\x1b[31m", "/\udcff", "/\u202e"])
def test_so_is_a_directory_that_does_not_print(directory: str) -> None:
    with pytest.raises(MountError, match="fstab has only what prints"):
        fstab_line(TCP, "web01", directory, now_ns=0)


@pytest.mark.parametrize(
    "more",
    [
        'uname=a"b',
        "uname=a\\",
        "uname=a\\,debug=1",
        'x-own="',
        "x-own=\\",
        "debug\\",
        "uname=a\rb",
        'uname="a,b"',
    ],
)
def test_so_is_an_option_that_would_take_the_aname_with_it(more: str) -> None:
    with pytest.raises(MountError):
        fstab_line(TCP, "web01", "/mnt", now_ns=0, more=more)


def test_labels_keep_their_quotes(tmp_path: Path) -> None:
    label = 'context="system_u:object_r:tmp_t:s0:c127,c456"'
    line = fstab_line(TCP, "web01:/a b", "/mnt", now_ns=0, more=label)
    assert line is not None
    found = libmount.read(tmp_path / "fstab", line).options
    assert found is not None
    assert label in found
    assert found.endswith(",aname=web01:/a b")


@given(aname=ANAMES)
@READABLE
def test_any_line_is_read_as_it_is_meant(tmp_path: Path, aname: str) -> None:
    with suppress(MountError):
        assert passed_on(tmp_path / "fstab", aname)["aname"] == aname


@pytest.mark.parametrize(
    "aname",
    [
        "web01@nonsense",
        "web01@",
        "web01@2026-13-01",
        "web01@~",
        "web01@~x",
        "web01@1969-12-31",
        "web01@2600",
        "-web01",
        "web 01",
        "web01:etc",
        "score:xyz",
        "score:abc",
        "a" * 201,
        "web01\r",
        "web01@latest\n",
        "web01@2026-11-23\x1b",
    ],
)
def test_what_can_be_no_version_has_no_line(aname: str) -> None:
    with pytest.raises(MountError, match=r"version|cannot be mounted"):
        fstab_line(TCP, aname, "/mnt", now_ns=0)


@pytest.mark.parametrize(
    "aname",
    [
        "",
        "/",
        "web01",
        "/web01",
        "web01@latest",
        "web01@~3",
        "web01@2026",
        "web01@2026-11-23T06:00Z",
        "web01@2026-11-23:/etc",
        "score:0123456789abcdef",
        "score:0123456789abcdef:/etc",
        "web01:/",
    ],
)
def test_what_can_be_one_has(tmp_path: Path, aname: str) -> None:
    assert passed_on(tmp_path / "fstab", aname)["aname"] == aname


@given(path=st.text(st.sampled_from(ODD + "ab"), max_size=12))
@READABLE
def test_a_shell_reads_a_command_as_it_is_meant(path: str) -> None:
    """Bash, as the words have its quotes where something does not print."""
    with suppress(MountError):
        line = mount_line(TCP, f"web01:/{path}", f"/mnt/{path}", now_ns=0)
        assert line.isprintable()
        done = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {line}"],
            capture_output=True,
            check=True,
            env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
        )
        words = [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]
        assert words[:3] == ["mount", "-t", "9p"]
        assert words[4].endswith(f",aname=web01:/{path}")
        assert words[5:] == ["192.0.2.1", f"/mnt/{path}"]


def test_a_shell_line_is_refused_where_mount_would_lose_the_aname() -> None:
    for path in 'a"b', "a\\", "a,b":
        with pytest.raises(MountError, match="mount a directory above it"):
            mount_line(TCP, f"web01:/{path}", now_ns=0)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("etc", "web01:/etc"),
        ("a b", '"web01:/a b"'),
        ('a"b', r'"web01:/a\"b"'),
        ("a\\b", r'"web01:/a\\b"'),
        ("100%", '"web01:/100%%"'),
        ("$HOME", '"web01:/$$HOME"'),
        ("a'b;", '"web01:/a\'b;"'),
        ("\r\x1b\u2028\udcff", r'"web01:/\r\x1b\u2028\xff"'),
    ],
)
def test_a_unit_gets_systemds_own_quotes(path: str, word: str) -> None:
    line = unit_line(parse_address("vsock://any"), f"web01:/{path}", "/mnt")
    assert line == f"ventifs mount vsock://host:564 {word} /mnt"


@pytest.mark.skipif(not SYSTEMD.exists(), reason="another systemd's internals may differ")
@given(path=st.text(st.sampled_from(ODD + "ab"), max_size=12))
@READABLE
def test_systemd_reads_a_unit_as_it_is_meant(path: str) -> None:
    line = unit_line(parse_address("vsock://any"), f"web01:/{path}", f"/mnt/{path}")
    rest = ctypes.c_char_p(os.fsencode(line))
    words, word = [], ctypes.c_char_p()
    library = ctypes.CDLL(str(SYSTEMD))
    while library.extract_first_word(ctypes.byref(rest), ctypes.byref(word), None, UNQUOTED) > 0:
        assert word.value is not None
        words.append(word.value.replace(b"%%", b"%").replace(b"$$", b"$"))
    assert words == [
        b"ventifs",
        b"mount",
        b"vsock://host:564",
        os.fsencode(f"web01:/{path}"),
        os.fsencode(f"/mnt/{path}"),
    ]


def test_the_kernel_gets_quotes_where_no_line_is_between() -> None:
    """mount(2) takes the options as they are, and the kernel knows no quotes in an aname."""
    options = mount_options('web01:/a"b\\', 0)
    assert options.data({}).endswith(',aname=web01:/a"b\\')

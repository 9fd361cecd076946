"""SERVING.md: what people paste from it is what this version of ventifs writes and takes."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import ventifs.serving
from ventifs.net.address import parse_address
from ventifs.net.admission import CONNECTIONS_MAX, CONNECTIONS_OF_A_PEER_MAX
from ventifs.net.allow_list import parse_rule
from ventifs.ninep.mount.options import LiveMount, fstab_line, mount_line, mount_options
from ventifs.ninep.session.limits import FID_BYTES, MSIZE_FIRST, OPEN_BYTES, SessionLimits
from ventifs.serving.settings import client_bytes_default
from ventifs.vfs.live import exposure
from ventifs.vfs.live.export import LiveExport, parse_export
from ventifs.vfs.memory_budget import DIRECTORY_BYTES, GUARDED_DIRECTORY_BYTES, RAW_BYTES

_LATER_NS = 2_000_000_000 * 10**9  # in 2033, when the days it names are over
_TEXT = (Path(ventifs.serving.__path__[0]) / "SERVING.md").read_text()
_BLOCKS = [
    re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip("\n")
    for block in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", _TEXT, flags=re.MULTILINE)
]
_LINES = [line.strip() for block in _BLOCKS for line in block.splitlines()]
_ANAME = "web01@2026-11-23"
_LIVE = {
    "web": LiveMount("shared", writable=True),
    "db": LiveMount("exclusive", writable=True),
}


def test_mount_lines_are_those_that_are_printed() -> None:
    lines = [shlex.split(line, comments=True) for line in _LINES if line.startswith("mount -t 9p")]
    assert len(lines) == 5
    for words in lines:
        source = words[-2]
        address = parse_address(f"unix://{source}" if source.startswith("/") else f"tcp://{source}")
        [aname] = re.findall(r"aname=([^,]+)", words[4])
        live = _LIVE.get(aname)
        assert words == shlex.split(mount_line(address, aname, "/mnt", now_ns=_LATER_NS, live=live))
    assert set(_LIVE) < set(re.findall(r"aname=([^, ]+)", _TEXT))


def test_live_directories_are_written_as_they_are_taken() -> None:
    found = dict(re.findall(r"--live (\w+)(=\S+)", _TEXT))
    for name, live in _LIVE.items():
        export = parse_export(name + found[name].rstrip("`"))
        assert (export.sharing, export.writable) == (live.sharing, live.writable)
    assert parse_export("a=/srv/a,,b").directory == "/srv/a,b"
    assert "`--live a=/srv/a,,b` serves `/srv/a,b`" in _TEXT
    words = "ventifs mount --live shared -o rw tcp://192.0.2.1 web /mnt"
    assert words in _LINES


def test_roots_remedies_are_those_of_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(exposure, "_way_to_harm", lambda *_: b"/srv/web")
        with pytest.raises(exposure.NotExportable) as caught:
            exposure._check_writable(
                exposure.OpenExport(LiveExport("web", "/srv/web", writable=True), -1),
                exposure._Where([], None),
            )
    remedies = re.findall(r"'((?:install|mount) [^']+)'", str(caught.value))
    assert len(remedies) == 2
    assert set(remedies) <= set(_LINES)


def test_the_fstab_line_is_the_one_that_is_printed() -> None:
    [line] = [line for line in _LINES if line.endswith(" 0 0")]
    assert line == fstab_line(parse_address("tcp://192.0.2.1"), _ANAME, "/mnt", now_ns=_LATER_NS)


def test_the_mount_units_options_are_the_same() -> None:
    [options] = [line for line in _LINES if line.startswith("Options=")]
    expected = mount_options(_ANAME, _LATER_NS).text({"trans": "tcp", "port": 564})
    assert options == f"Options={expected},_netdev"


def test_addresses_and_rules_are_taken() -> None:
    addresses = re.findall(r"(?<=\s)(?:tcp|unix|vsock)://[a-z0-9./]+(?=[\s]|$)", "\n".join(_LINES))
    assert len(addresses) >= 6
    for address in addresses:
        parse_address(address)
    rules = re.findall(r"--allow '([^']+)'", _TEXT)
    [listed] = [block for block in _BLOCKS if "user:alice" in block]
    rules += [line.partition("#")[0] for line in listed.splitlines()]
    assert len(rules) >= 9
    for rule in rules:
        parse_rule(re.sub(r"(user|group):[a-z]+", r"\1:1000", rule))  # not everybody has an alice


def test_memory_is_charged_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = SessionLimits()
    first, largest = (limits.session_bytes(size) for size in (MSIZE_FIRST, limits.msize_max))
    assert f"| {FID_BYTES}; a directory {FID_BYTES + GUARDED_DIRECTORY_BYTES:,} with" in _TEXT
    assert f"beyond {RAW_BYTES} bytes |" in _TEXT
    assert f"| {OPEN_BYTES} more, and" in _TEXT
    assert f"| {DIRECTORY_BYTES} once for each connection" in _TEXT
    assert f"| {first / 2**20:.1f} MiB, for" in _TEXT
    assert f"; {largest / 2**20:.1f} MiB with messages of 1 MiB |" in _TEXT
    [peer] = re.findall(r"(\d+) MiB of one peer", _TEXT)
    # Among the million are a thousand directories, whose modes may be checked.
    directory = GUARDED_DIRECTORY_BYTES + DIRECTORY_BYTES
    needed = 1_001_000 * FID_BYTES + 1000 * directory + largest
    assert 0 <= int(peer) * 2**20 - needed < 2**20
    assert f"`--client-memory {2 * int(peer)}MiB`" in _TEXT
    [machine] = re.findall(r"less than the default on a machine of (\d+) GiB", _TEXT)
    memory = int(machine) * 2**30 * 7 // 8  # the kernel and firmware keep some for themselves
    page = os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": memory // page, "SC_PAGE_SIZE": page}.get)
    assert 2 * int(peer) * 2**20 < client_bytes_default()


def test_limits_are_those_of_the_code() -> None:
    assert f"A peer may have {CONNECTIONS_OF_A_PEER_MAX} connections" in _TEXT
    assert f"there may be {CONNECTIONS_MAX:,} in all" in _TEXT


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    units = [block for block in _BLOCKS if block.startswith("[Unit]")]
    assert len(units) == 4
    paths: list[Path] = []
    for unit in units:
        kind = next(kind for kind in ("Mount", "Automount", "Service") if f"[{kind}]" in unit)
        path = tmp_path / (
            f"mnt{len(paths)}." + kind.lower() if kind == "Service" else "mnt." + kind.lower()
        )
        path.write_text(unit.replace("/usr/local/bin/ventifs", "/bin/true"))
        paths.append(path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if "mnt" in line] == []

"""The systemd units: they parse, systemd itself accepts them, and they give away nothing."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ventifs.net.allow_list import AllowList, parse_rules
from ventifs.net.peer import Peer

_UNITS = Path(__file__).parents[2] / "tools" / "systemd"


def _settings(name: str) -> dict[str, list[str]]:
    """Values by key, as systemd reads a unit: the sections here share no key."""
    settings: dict[str, list[str]] = {}
    for line in (_UNITS / name).read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, equals, value = line.partition("=")
            assert equals, line
            settings.setdefault(key, []).append(value)
    return settings


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_accepts_them(tmp_path: Path) -> None:
    for unit in _UNITS.glob("ventifs-serve.*"):
        text = unit.read_text()
        # this machine has not installed it; any program that exists will do
        (tmp_path / unit.name).write_text(text.replace("/usr/local/bin/ventifs ", "/bin/true "))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "ventifs" in line]
    assert complaints == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_a_typing_error_would_be_found(tmp_path: Path) -> None:
    text = (_UNITS / "ventifs-serve.service").read_text()
    wrong = tmp_path / "ventifs-serve.service"
    wrong.write_text(text.replace("ProtectSystem=strict", "ProtectSystem=stritc"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", wrong],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "stritc" in done.stderr


def test_the_socket_is_the_one_people_are_told_of() -> None:
    socket = _settings("ventifs-serve.socket")
    assert socket["ListenStream"] == ["/run/ventifs/9p.sock"]
    assert socket["SocketMode"] == ["0600"]
    assert "Accept" not in socket


def test_the_server_can_write_the_store_as_far_as_its_modes_go_and_nothing_else() -> None:
    service = _settings("ventifs-serve.service")
    assert service["ProtectSystem"] == ["strict"]
    assert service["ReadWritePaths"] == ["/var/lib/ventifs"]
    assert "ReadOnlyPaths" not in service  # there a reader cannot hold the index's lock
    assert "ExecStartPre" not in service
    assert service["Group"] == ["ventifs"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["NoNewPrivileges"] == ["yes"]
    assert service["User"] == ["ventifs"]
    assert re.search(r"^u ventifs ", (_UNITS / "ventifs.sysusers").read_text(), re.MULTILINE)
    [command] = service["ExecStart"]
    assert "--store /var/lib/ventifs" in command
    assert "--allow-file /etc/ventifs/allow" in command


def test_the_example_gives_root_all_and_others_nothing() -> None:
    lines = (_UNITS / "allow.example").read_text().splitlines()
    allow = AllowList(tuple(parse_rules(lines, "allow.example")))
    assert allow.exports(Peer(kind="unix", pid=1, uid=0, gid=0))("web01")
    assert not allow.exports(Peer(kind="unix", pid=1, uid=1000, gid=0))
    assert not allow.exports(Peer(kind="tcp", ip="192.0.2.1", port=1))
    assert not allow.exports(Peer(kind="vsock", cid=5, port=1))
    offered = [line[1:] for line in lines if re.match(r"#\S", line)]
    assert len(parse_rules(offered, "allow.example")) == 2

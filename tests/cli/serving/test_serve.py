"""`ventifs serve` and `ventifs servers`: real processes, real sockets, over a real store."""

import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.patience import wait_until
from tests.support.serve import PATIENCE_S, VENTIFS, Serve, environment, ventifs
from tests.support.trace_lines import parse
from tests.support.trees import noise
from ventifs.ninep.client.checks import RemoteError
from ventifs.ninep.client.client import Client
from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import (
    NOFID,
    NOTAG,
    Dialect,
    Tattach,
    Tgetattr,
    Tlopen,
    Tread,
    Tversion,
    Twalk,
)

TCP = "tcp://127.0.0.1:0"
ALLOW = ("--allow", "tcp *")
CODEC = MessageCodec.of(Dialect.LINUX)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with two versions of `web`, and one of `db`."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "motd").write_bytes(b"hello\n")
    (tree / "etc" / "secret").write_bytes(b"secret\n")
    (tree / "etc" / "secret").chmod(0o600)
    (tree / "large").write_bytes(noise(700_000))
    ventifs(tmp_path, "init")
    ventifs(tmp_path, "archive", "tree", "--name", "web", "--time", "2026-01-01")
    ventifs(tmp_path, "archive", "tree", "--name", "db", "--time", "2026-01-01")
    return tmp_path


def _with(
    address: str, aname: bytes, look: Callable[[Client], Awaitable[object]], uid: int = 0
) -> Any:
    async def main() -> object:
        with trio.fail_after(PATIENCE_S):
            async with Client.connect(address, aname=aname, uid=uid) as client:
                return await look(client)

    try:
        return trio.run(main)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _read(address: str, aname: bytes, path: bytes, uid: int = 0) -> object:
    return _with(address, aname, lambda client: client.read(path), uid)


def _names(address: str, aname: bytes) -> object:
    async def look(client: Client) -> object:
        return sorted(entry.name for entry in await client.list(b""))

    return _with(address, aname, look)


def _refused(look: Callable[[], object]) -> int | None:
    with pytest.raises(RemoteError) as refused:
        look()
    number: int | None = refused.value.errno
    return number


def test_what_was_archived_is_served_and_so_is_what_comes_later(home: Path) -> None:
    with Serve(home, TCP, *ALLOW) as server:
        [address] = server.addresses
        assert _names(address, b"") == [b"db", b"web"]
        assert _names(address, b"web") == [b"2026-01-01T00:00:00Z", b"latest"]
        assert _read(address, b"web@latest", b"etc/motd") == b"hello\n"
        assert _read(address, b"web@latest", b"large") == noise(700_000)
        (home / "tree" / "etc" / "motd").write_bytes(b"changed\n")
        ventifs(home, "archive", "tree", "--name", "web", "--time", "2026-01-02")

        names = [b"2026-01-01T00:00:00Z", b"2026-01-02T00:00:00Z", b"latest"]
        wait_until(lambda: _names(address, b"web") == names)
        assert _read(address, b"web@latest", b"etc/motd") == b"changed\n"
        assert _read(address, b"web@2026-01-01", b"etc/motd") == b"hello\n"
        assert server.stop() == 0
        assert "event=stopping signal=SIGTERM" in server.log


def test_without_an_address_it_is_a_socket_of_ones_own(home: Path) -> None:
    with Serve(home, lines=2) as server:
        path = home / "run" / "9p.sock"
        assert server.said[0] == f"listening on unix://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert server.said[1].startswith("mount it, as root, with: mount -t 9p -o ro,nosuid,nodev,")
        assert server.said[1].endswith(f" {path} /mnt")
        assert _names(f"unix://{path}", b"") == [b"db", b"web"]
        assert server.stop(signal.SIGINT) == 0
        assert list((home / "run").iterdir()) == []


def test_without_a_list_tcp_gets_what_nobody_may_read(home: Path) -> None:
    with Serve(home, TCP, f"unix://{home}/s", lines=2) as server:
        address, local = server.addresses
        assert "without an allow list, only what nobody may read is served here" in server.log
        assert _read(address, b"web@latest", b"etc/motd", uid=0) == b"hello\n"
        assert _refused(lambda: _read(address, b"web@latest", b"etc/secret", uid=0)) == 13
        assert _read(local, b"web@latest", b"etc/secret", uid=0) == b"secret\n"


def test_nobody_reaches_what_the_lists_do_not_give(home: Path) -> None:
    (home / "rules").write_text("# a comment\n127.0.0.0/8 d*\n")
    options = ("--allow-file", str(home / "rules"), "--allow", "unix web")
    with Serve(home, TCP, f"unix://{home}/s", *options, lines=2) as server:
        address, local = server.addresses
        assert _names(address, b"") == [b"db"]
        assert _names(local, b"") == [b"web"]
        assert _refused(lambda: _names(address, b"web@latest")) == 2
        assert _refused(lambda: _names(local, b"db")) == 2


def test_an_empty_list_gives_nobody_anything(home: Path) -> None:
    (home / "rules").write_text("")
    with Serve(home, TCP, "--allow-file", str(home / "rules")) as server:
        assert "nobody reaches anything" in server.log
        place = server.addresses[0].removeprefix("tcp://").split(":")
        with socket.create_connection((place[0], int(place[1])), PATIENCE_S) as client:
            assert client.recv(1) == b""
        server.heard('event=refused peer="tcp 127.0.0.1:[0-9]+" reason=')


def test_a_list_that_is_not_text_is_told(home: Path) -> None:
    (home / "rules").write_bytes(b"# caf\xe9\nunix web\xe9\n")
    failed = ventifs(home, "serve", "--allow-file", str(home / "rules"), expected=1)
    assert b"rules:2: rule 'unix web" in failed.stderr


def test_modes_are_checked_when_asked_for(home: Path) -> None:
    with Serve(home, TCP, *ALLOW, "--access", "mode", "--squash", "root") as server:
        [address] = server.addresses
        assert _refused(lambda: _read(address, b"web@latest", b"etc/secret", uid=0)) == 13
        assert _read(address, b"web@latest", b"etc/motd", uid=0) == b"hello\n"


def test_scores_when_asked_for(home: Path) -> None:
    [version, *_] = json.loads(ventifs(home, "versions", "web", "--json").stdout)
    score = version["score"].removeprefix("score:")
    with Serve(home, TCP, *ALLOW, "--scores") as server:
        assert _read(server.addresses[0], f"score:{score}".encode(), b"etc/motd") == b"hello\n"
    with Serve(home, TCP, *ALLOW) as server:
        assert _refused(lambda: _names(server.addresses[0], f"score:{score}".encode())) == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("serve tcp://127.0.0.1:99999", 1, "is no port"),
        ("serve localhost", 1, "names no transport; write tcp://"),
        ("serve --allow nonsense", 1, "rule 'nonsense': has 1 words"),
        ("serve --store nowhere", 1, "nowhere: there is no such store"),
        ("serve --store tree", 1, "tree"),
        ("serve --squash all", 2, "--squash needs --access mode"),
        ("serve --cache 1k", 2, "each worker needs 16MiB"),
        ("serve --msize 10", 2, "messages have 4KiB to 16MiB"),
        ("serve --stdio tcp://127.0.0.1:0", 2, "--stdio serves one client"),
        ("serve --metrics nonsense", 1, "names no transport"),
        ("serve unix:///proc/no/socket", 1, "unix:///proc/no/socket: cannot listen"),
        ("servers", 1, "no server of yours runs; start one with ventifs serve"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(home: Path, words: str, code: int, message: str) -> None:
    failed = ventifs(home, *words.split(), expected=code)
    told = failed.stderr.decode().splitlines()
    assert message in told[-1]
    assert code == 2 or len(told) == 1
    assert failed.stdout == b""
    assert list((home / "run").iterdir()) == []


def test_an_address_in_use_is_told(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        failed = ventifs(home, "serve", address, expected=1)
    assert b"address already in use; another server listens there; stop it" in failed.stderr


def test_no_versions_yet_is_a_note(tmp_path: Path) -> None:
    ventifs(tmp_path, "init")
    with Serve(tmp_path, TCP, *ALLOW) as server:
        server.heard("event=empty .*no versions yet")
        assert _names(server.addresses[0], b"") == []


def test_servers_are_listed(home: Path) -> None:
    with (
        Serve(home, TCP, *ALLOW) as server,
        Serve(home, f"unix://{home}/s", "--cache", "32MiB") as second,
    ):
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (home / "run").iterdir()}
        assert modes == {0o600}

        async def look(client: Client) -> object:
            await client.read(b"etc/motd")
            return await trio.to_thread.run_sync(
                lambda: (
                    ventifs(home, "servers").stdout.decode(),
                    json.loads(ventifs(home, "servers", "--json").stdout),
                )
            )

        told, facts = _with(server.addresses[0], b"web@latest", look)
    by_pid = {each["pid"]: each for each in facts}
    assert set(by_pid) == {server.process.pid, second.process.pid}
    busy = by_pid[server.process.pid]
    assert busy["addresses"] == server.addresses
    assert busy["store"] == str(home / "data" / "ventifs")
    [session] = busy["process"]["sessions"]
    assert session["export"] == "web@latest"
    assert session["dialect"] == "9P2000.L"
    assert session["user"] == "0"
    assert session["peer"].startswith("tcp 127.0.0.1:")
    assert session["operations"] == sum(busy["process"]["totals"]["operations"].values()) > 4
    assert busy["process"]["cache_bytes"] > 0
    assert by_pid[second.process.pid]["process"]["sessions"] == []
    assert by_pid[second.process.pid]["process"]["cache_bytes_max"] == 32 << 20
    assert re.search(
        r"    tcp 127.0.0.1:\d+: web@latest as 0, 9P2000.L, \d+ fids?, 0 in flight", told
    )
    assert re.search(r"  sessions   1 now, 0 over, 0 refused\n", told)


def test_what_killed_servers_leave_is_cleared_away(home: Path) -> None:
    with Serve(home, TCP, *ALLOW):
        pass  # it is killed
    with Serve(home, TCP, *ALLOW) as living:
        [left] = (home / "run").iterdir()
        assert left.name == f"control-{living.process.pid}.sock"
        with Serve(home, TCP, *ALLOW):
            assert len(json.loads(ventifs(home, "servers", "--json").stdout)) == 2


def test_metrics(home: Path) -> None:
    with Serve(home, TCP, *ALLOW, "--metrics", TCP, lines=2) as server:
        _read(server.addresses[0], b"web@latest", b"etc/motd")
        server.heard("event=closed")
        place = server.said[1].removeprefix("metrics at tcp://").split(":")
        with socket.create_connection((place[0], int(place[1])), PATIENCE_S) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = client.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert 'ventifs_operations_total{type="Tattach"} 1\n' in answer
    assert "ventifs_sessions_total 1\n" in answer


def test_log_lines_of_json(home: Path) -> None:
    with Serve(home, TCP, "--log-json") as server:
        _read(server.addresses[0], b"web@latest:/etc", b"motd", uid=77)
        server.heard('"event": "closed"')
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert lines.pop(0)["note"].startswith("tcp://127.0.0.1:")
    [closed] = [line for line in lines if line["event"] == "closed"]
    assert (closed["export"], closed["user"], closed["reason"]) == (
        "web@latest:/etc",
        "77",
        "closed by peer",
    )
    assert [line["event"] for line in lines] == ["opened", "closed", "stopping", "stopped"]


def test_a_trace_can_be_read_back(home: Path) -> None:
    with Serve(home, TCP, *ALLOW, "--trace") as server:
        _read(server.addresses[0], b"web@latest", b"etc/motd")
        server.heard("event=closed")
        server.process.terminate()
        out, _ = server.process.communicate(timeout=PATIENCE_S)
    lines = [parse(line) for line in out.decode().splitlines()]
    names = [type(line.message).__name__ for line in lines]
    assert names[:4] == ["Tversion", "Rversion", "Tattach", "Rattach"]
    assert "Rread" in names
    assert [line.incoming for line in lines[:4]] == [True, False, True, False]


def _stdio(home: Path, *words: str, data: bytes) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*VENTIFS, "serve", "--stdio", *words],
        env=environment(home),
        cwd=home,
        input=data,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


_HELLO = (
    CODEC.encode(Tversion(8192, b"9P2000.L"), NOTAG)
    + CODEC.encode(Tattach(0, NOFID, b"", b"web@latest", 0), 1)
    + CODEC.encode(Tgetattr(0, 0x7FF), 2)
)


def test_standard_input_and_output(home: Path) -> None:
    done = _stdio(home, "--trace", data=_HELLO)
    assert done.returncode == 0
    kinds, at = [], 0
    while at < len(done.stdout):
        size = int.from_bytes(done.stdout[at : at + 4], "little")
        kinds.append(done.stdout[at + 4])
        at += size
    assert kinds == [101, 105, 25]
    assert b">>> Rgetattr tag 2" in done.stderr  # and not among the replies
    assert b"event=closed peer=stdio" in done.stderr


def test_standard_input_is_a_peer_of_the_list(home: Path) -> None:
    refused = _stdio(home, "--allow", "tcp *", data=_HELLO)
    assert refused.returncode == 1
    assert b"the allow list gives standard input nothing; add --allow 'stdio *'" in refused.stderr
    given = _stdio(home, "--allow", "stdio db", data=_HELLO)
    assert given.returncode == 0
    assert given.stdout[4] == 101
    assert b"errors=2" in given.stderr


def test_a_signal_ends_standard_input_and_output(home: Path) -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        subprocess.Popen(
            [*VENTIFS, "serve", "--stdio"],
            env=environment(home),
            cwd=home,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
        ) as server,
    ):
        theirs.close()
        ours.settimeout(PATIENCE_S)
        ours.sendall(_HELLO)
        assert len(ours.recv(10)) == 10
        server.terminate()
        assert server.wait(PATIENCE_S) == 0


_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_sockets_and_readiness_as_systemd_has_them(home: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        notified.bind(str(home / "notify"))
        notified.settimeout(PATIENCE_S)
        with subprocess.Popen(
            [sys.executable, "-c", _AS_SYSTEMD, str(listener.fileno()), *VENTIFS, "serve", *ALLOW],
            env=environment(home, NOTIFY_SOCKET=str(home / "notify")),
            cwd=home,
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as server:
            assert notified.recv(100) == b"READY=1"
            address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
            listener.close()
            assert _names(address, b"") == [b"db", b"web"]
            server.terminate()
            out, _ = server.communicate(timeout=PATIENCE_S)
            assert out.decode() == f"listening on {address}\n"
            assert server.returncode == 0


_LARGE = b"".join(
    [
        CODEC.encode(Tversion(1 << 20, b"9P2000.L"), NOTAG),
        CODEC.encode(Tattach(0, NOFID, b"", b"web@latest", 0), 1),
        CODEC.encode(Twalk(0, 1, (b"large",)), 2),
        CODEC.encode(Tlopen(1, 0), 3),
        *(CODEC.encode(Tread(1, 0, 700_000), 4) for _ in range(100)),
    ]
)
_LARGE_ANSWER = struct.pack("<IBHI", 700_011, Tread.type + 1, 4, 700_000)  # its beginning


def test_a_second_signal_ends_it_at_once(home: Path) -> None:
    """The client does not read, so that a graceful stop would wait for it."""
    with Serve(home, f"unix://{home}/s") as server, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(home / "s"))
        client.settimeout(PATIENCE_S)
        client.sendall(_LARGE)
        answered = b""
        while _LARGE_ANSWER not in answered:  # more than any socket holds is still to come
            answered += client.recv(1)
        server.process.terminate()
        server.heard("event=stopping signal=SIGTERM")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE_S) == 0
        server.heard("at_once=True")
        assert not (home / "s").exists()


def test_kill_leaves_a_socket_that_the_next_one_replaces(home: Path) -> None:
    with Serve(home, f"unix://{home}/s") as first:
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait(PATIENCE_S)
    assert (home / "s").exists()
    with Serve(home, f"unix://{home}/s") as second:
        assert _names(second.addresses[0], b"") == [b"db", b"web"]
        assert json.loads(ventifs(home, "servers", "--json").stdout)[0]["pid"] == second.process.pid

"""`ventifs serve --live`: real processes and the real file system, from the command line on."""

import json
import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.patience import PATIENCE_S, wait_until
from tests.support.serve import VENTIFS, Serve, environment, ventifs
from tests.support.sessions import CODEC, frames
from ventifs.ninep.protocol import messages as m

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root can mount, freeze, and act as others")
HELLO = (m.NOTAG, m.Tversion(8192, b"9P2000.L"))
CREATE = os.O_CREAT | os.O_RDWR | os.O_EXCL


class Guest:
    """A client that is attached to something, as fid 0, and waits for each reply."""

    def __init__(self, home: Path, aname: str, uid: int = 0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(str(home / "run/s"))
        self._rest = b""
        try:
            self.ask(HELLO[1], m.NOTAG)
            self.attached = self.ask(m.Tattach(0, m.NOFID, b"", aname.encode(), uid))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, message: m.Message, tag: int = 1) -> None:
        self._socket.sendall(frames((tag, message)))

    def reply(self) -> Any:
        while len(self._rest) < 4 or len(self._rest) < int.from_bytes(self._rest[:4], "little"):
            more = self._socket.recv(1 << 16)
            if not more:
                raise EOFError
            self._rest += more
        size = int.from_bytes(self._rest[:4], "little")
        frame, self._rest = self._rest[:size], self._rest[size:]
        return CODEC.decode(frame)[1]

    def ask(self, message: m.Message, tag: int = 1) -> Any:
        self.send(message, tag)
        return self.reply()

    def silent(self) -> bool:
        """Whether no reply is there now."""
        return not self._rest and not select.select([self._socket], [], [], 0)[0]

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        self.ask(m.Twalk(0, 50, (name.encode(),)))
        self.ask(m.Tlopen(50, os.O_RDONLY))
        data = bytes(self.ask(m.Tread(50, 0, 8000)).data)
        self.ask(m.Tclunk(50))
        return data

    def create(self, name: str, fid: int) -> Any:
        """Create a file and open it as a new fid; the reply."""
        self.ask(m.Twalk(0, fid, ()))
        return self.ask(m.Tlcreate(fid, name.encode(), CREATE, 0o644, 0))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Directories `web` and `db` with a file each, where only their owner goes."""
    tmp_path.chmod(0o700)
    for name in ("web", "db"):
        (tmp_path / "live" / name).mkdir(parents=True)
        (tmp_path / "live" / name / "motd").write_text(f"hello from {name}\n")
    return tmp_path


@pytest.fixture
def stored(home: Path) -> Path:
    """And a store with a version of `old`."""
    ventifs(home, "init")
    ventifs(home, "archive", "live/web", "--name", "old", "--time", "2026-01-01")
    return home


def serving(home: Path, *words: str, lines: int = 2) -> Serve:
    """A server of `web`, for writing, and what else is said."""
    return Serve(
        home, f"unix://{home}/run/s", "--live", f"web={home}/live/web,rw", *words, lines=lines
    )


def test_a_directory_is_served_without_a_store(home: Path) -> None:
    with serving(home) as server:
        assert server.said[1] == (
            "mount web, as root, with: mount -t 9p -o nosuid,nodev,trans=unix,version=9p2000.L,"
            "msize=1048576,cache=none,access=user,locktimeout=1,aname=web "
            f"{home}/run/s /mnt"
        )
        with Guest(home, "web", os.getuid()) as guest:
            assert guest.read("motd") == b"hello from web\n"
            assert isinstance(guest.create("new", 1), m.Rlcreate)
            assert guest.ask(m.Twrite(1, 0, b"written")) == m.Rwrite(7)
            assert (home / "live/web/new").read_bytes() == b"written"
        assert ventifs(home, "9p", "ls", f"unix://{home}/run/s").stdout == b"web\n"
        assert server.stop() == 0
    assert "export_died" not in server.log
    assert not (home / "data").exists()


def test_it_says_that_nobody_may_mount_what_no_rule_gives(home: Path) -> None:
    with serving(home, "--allow", "unix db*") as server:
        assert server.said[1] == "nobody may mount web: no rule gives it; add --allow 'PEER web'"
        assert server.stop() == 0


def test_it_stands_beside_versions_with_workers_or_without(stored: Path) -> None:
    for workers in ((), ("--workers", "2")):
        with serving(stored, *workers) as server:
            with Guest(stored, "old@latest") as guest:
                assert guest.read("motd") == b"hello from web\n"
            with Guest(stored, "web", os.getuid()) as guest:
                (stored / "live/web/motd").write_text("changed\n")
                assert guest.read("motd") == b"changed\n"
                (stored / "live/web/motd").write_text("hello from web\n")
            listed = ventifs(stored, "9p", "ls", f"unix://{stored}/run/s").stdout
            assert listed == b"old\nweb\n"
            assert server.stop() == 0


def test_read_only_is_what_is_not_said_otherwise(home: Path) -> None:
    with (
        serving(home, "--live", f"db={home}/live/db", lines=3) as server,
        Guest(home, "db", os.getuid()) as guest,
    ):
        assert " -o ro,nosuid,nodev," in server.said[2]
        assert guest.create("new", 1) == m.Rlerror(30)  # EROFS
        assert os.listdir(home / "live/db") == ["motd"]


def test_our_client_says_how_a_directory_is_reached_from_the_root(home: Path) -> None:
    address = f"unix://{home}/run/s"
    reason = "invalid cross-device link; it is a tree of its own: attach to it by --aname"
    with serving(home):
        for words, where in ((("ls", "-l", address), "web"), (("ls", address, "/web"), "/web")):
            failed = ventifs(home, "9p", *words, expected=1).stderr.decode()
            assert failed.endswith(f"{where}: {reason}\n")
        assert ventifs(home, "9p", "ls", "--aname", "web", address).stdout == b"motd\n"


def test_a_comma_in_a_directory(home: Path) -> None:
    (home / "live/a,rw").mkdir()
    (home / "live/a,rw/motd").write_text("comma\n")
    with (
        serving(home, "--live", f"comma={home}/live/a,,rw", lines=3),
        Guest(home, "comma") as guest,
    ):
        assert guest.read("motd") == b"comma\n"


def test_a_directory_of_any_name_is_served_and_shown_escaped(home: Path) -> None:
    odd = home / os.fsdecode(b"live/\xff\x1b[31m\n")
    (home / "live/db").rename(odd)
    with serving(home, "--live", f"db={odd}", lines=3), Guest(home, "db", os.getuid()) as guest:
        assert guest.read("motd") == b"hello from db\n"
        shown = ventifs(home, "servers").stdout
        assert rb"live/\xff\x1b[31m\n, shared, read; 1 connection" in shown
        assert b"\x1b" not in shown
        [server] = json.loads(ventifs(home, "servers", "--json").stdout)
        assert server["live"][1]["connections"] == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--live web", 2, "web: has no '='; write NAME=DIR"),
        ("--live web=live/web,ww", 2, "'ww' is no option; write rw, shared or exclusive"),
        ("--live web=live/web --live web=live/db", 2, "two live exports have the name 'web'"),
        ("--live web=live/none", 1, "live/none: there is no such directory; make it first"),
        ("--live web=live/web/motd", 1, "live/web/motd: is no directory; name one"),
        ("--live web=live --live db=live/db", 1, "'db': lies in 'web'; leave it out, and"),
        ("--live web=run", 1, "run: contains the socket"),
        ("--live web=.", 1, "contains the socket"),
        (
            "--live web=live/web --store nowhere",
            1,
            "makes one; without --store and $VENTIFS_STORE only the directories are served",
        ),
        ("--live web=live/web --squash all --client-memory 7MiB", 2, "live directory needs 4MiB"),
        ("--live web=live/web --allow-file live/web/motd", 1, "live/web/motd:1: rule"),
        ("--live web=etc --allow-file etc/allow", 1, "etc: contains the allow file"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_line(
    home: Path, words: str, code: int, message: str
) -> None:
    (home / "etc").mkdir()
    (home / "etc/allow").write_text("unix web\n")
    failed = ventifs(home, "serve", f"unix://{home}/run/s", *words.split(), expected=code)
    assert message in failed.stderr.decode()
    assert code == 2 or len(failed.stderr.splitlines()) == 1
    assert "(store " not in failed.stderr.decode()
    assert not (home / "run/s").exists()


def test_names_and_places_of_the_store_are_taken(stored: Path) -> None:
    for words, message in (
        ("old=live/db", "live export 'old': versions have this name; choose another one"),
        ("db=data/ventifs", "data/ventifs: contains the store"),
        ("db=data/ventifs/index", "data/ventifs/index: lies in the store"),
        ("db=data", "data: contains the store"),
    ):
        failed = ventifs(stored, "serve", "--live", words, expected=1)
        assert message in failed.stderr.decode()


def test_the_figures_name_each_directory(home: Path) -> None:
    with (
        serving(home, "--live", f"db={home}/live/db,exclusive", lines=3),
        Guest(home, "web", os.getuid()) as guest,
    ):
        guest.read("motd")
        shown = ventifs(home, "servers").stdout.decode()
        assert f"live exports at unix://{home}/run/s\n" in shown
        assert (
            f"  live       web: {home}/live/web, shared, read and written; 1 connection, " in shown
        )
        assert (
            f"  live       db: {home}/live/db, exclusive, read; 0 connections, no process\n"
            in shown
        )
        [server] = json.loads(ventifs(home, "servers", "--json").stdout)
        assert [live["name"] for live in server["live"]] == ["web", "db"]
        assert server["process"]["totals"]["operations"]["Tattach"] == 1
        assert [session["export"] for session in server["process"]["sessions"]] == ["web"]


def test_workers_and_directories_divide_the_memory(home: Path) -> None:
    """Two workers and two directories get a quarter each, also while they have no process."""
    words = ("--live", f"db={home}/live/db", "--workers", "2", "--client-memory", "40MiB")
    with serving(home, *words, lines=3):
        for names in (), ("web",), ("web", "db"):
            with ExitStack() as guests:
                for name in names:
                    guests.enter_context(Guest(home, name, os.getuid())).read("motd")
                [server] = json.loads(ventifs(home, "servers", "--json").stdout)
                assert server["process"]["client_bytes_max"] == 40 << 20


def test_its_process_ends_with_the_server_however_that_ends(home: Path) -> None:
    """Also when it cannot do anything: it does not hear of it by its socket then."""
    for stopped in (False, True):
        with serving(home) as server, Guest(home, "web", os.getuid()):
            [pid] = server.workers()
            ended = os.pidfd_open(pid)
            if stopped:
                os.kill(pid, signal.SIGSTOP)
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait(PATIENCE_S)
            if stopped:
                os.kill(pid, signal.SIGCONT)
            assert select.select([ended], [], [], PATIENCE_S)[0], "a process is left behind"
            os.close(ended)
        (home / "run/s").unlink()


def test_over_standard_input_and_output(home: Path) -> None:
    """As a socket, and as two pipes, whose other end closes one first."""
    sent = frames(
        HELLO,
        (1, m.Tattach(0, m.NOFID, b"", b"web", os.getuid())),
        (2, m.Twalk(0, 1, (b"motd",))),
        (3, m.Tlopen(1, os.O_RDONLY)),
        (4, m.Tread(1, 0, 100)),
    )
    words = [*VENTIFS, "serve", "--stdio", "--live", f"web={home}/live/web"]
    piped = subprocess.run(
        words,
        input=sent,
        capture_output=True,
        env=environment(home),
        timeout=PATIENCE_S,
        check=True,
    )
    assert piped.stdout.endswith(b"hello from web\n")
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        subprocess.Popen(
            words,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.PIPE,
            env=environment(home),
        ) as server,
    ):
        theirs.close()
        ours.settimeout(PATIENCE_S)
        ours.sendall(sent)
        data = b""
        while not data.endswith(b"hello from web\n"):
            data += ours.recv(4096) or pytest.fail(f"it hung up after {data!r}")
        ours.close()
        assert server.wait(PATIENCE_S) == 0


@as_root
def test_root_does_not_write_where_others_go(home: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        os.chmod(made, 0o755)
        (Path(made) / "web").mkdir()
        words = ("serve", f"unix://{home}/run/s", "--live", f"web={made}/web,rw")
        failed = ventifs(home, *words, expected=1).stderr.decode()
        assert (
            f"programs that a guest leaves in {made}/web; either put it where only root" in failed
        )
        assert f"mv {made}/web /srv/live/" in failed
        assert len(failed.splitlines()) == 1


@pytest.fixture
def frozen(home: Path) -> Iterator["Frozen"]:
    with ExitStack() as stack:
        yield Frozen(home, stack)


class Frozen:
    """An ext4 on `live/disk` that can be frozen."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.place = home / "live/disk"
        image = home / "disk.img"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        self.place.mkdir()
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        subprocess.run(["mount", "-o", "loop,nosuid,nodev", image, self.place], check=True)
        stack.callback(self._unmount)
        stack.callback(self.thaw)
        self._frozen = False

    def _unmount(self) -> None:
        subprocess.run(["umount", "-l", self.place], check=True)

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "-f", self.place], check=True)
        self._frozen = True

    def thaw(self) -> None:
        if self._frozen:
            subprocess.run(["fsfreeze", "-u", self.place], check=True)
            self._frozen = False


@as_root
def test_a_disk_that_hangs_harms_its_own_users_alone(stored: Path, frozen: "Frozen") -> None:
    with serving(stored, "--live", f"disk={frozen.place},rw", lines=3) as server:
        with Guest(stored, "disk") as stuck, Guest(stored, "disk") as other:
            assert isinstance(stuck.create("before", 1), m.Rlcreate)
            frozen.freeze()
            stuck.ask(m.Twalk(0, 2, ()))
            stuck.send(m.Tlcreate(2, b"during", CREATE, 0o644, 0), 7)
            for _ in range(3):
                with Guest(stored, "old@latest") as archived:
                    assert archived.read("motd") == b"hello from web\n"
                with Guest(stored, "web") as web:
                    assert web.read("motd") == b"hello from web\n"
                    assert isinstance(web.create("also", 1), m.Rlcreate)
                    web.ask(m.Tremove(1))
            assert stuck.silent()
            frozen.thaw()
            assert isinstance(stuck.reply(), m.Rlcreate)
            assert isinstance(other.ask(m.Tgetattr(0, 0x7FF)), m.Rgetattr)
        assert (frozen.place / "during").exists()
        assert server.stop() == 0


@as_root
def test_the_server_ends_though_a_disk_hangs(home: Path, frozen: "Frozen") -> None:
    with serving(home, "--live", f"disk={frozen.place},rw", lines=3) as server:
        with Guest(home, "disk") as stuck:
            frozen.freeze()
            stuck.ask(m.Twalk(0, 2, ()))
            stuck.send(m.Tlcreate(2, b"during", CREATE, 0o644, 0), 7)
            wait_until(lambda: any("D" in _state(pid) for pid in server.workers()))
            server.process.send_signal(signal.SIGTERM)
            server.process.send_signal(signal.SIGINT)  # at once
            assert server.process.wait(PATIENCE_S) == 0
            assert "event=stuck" in server.log
        frozen.thaw()


def _state(pid: int) -> set[str]:
    """The states of a process's threads."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        found.add(path.read_text().rpartition(")")[2].split()[0])
    return found

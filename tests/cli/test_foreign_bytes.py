"""No foreign byte reaches a terminal, a pipe or a log raw, whichever command prints it.

Every command is driven, on a terminal and through pipes: with hostile words in every argument and
option, derived from the commands' own declarations, and over hostile stores, disks and servers.
"""

import ast
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import click
import pytest

from tests.support import forging, hostile
from tests.support.answering import served, sessions
from tests.support.hostile import NAME, TEXT
from tests.support.serve import Serve, environment
from tests.support.terminals import Commands, Said
from ventifs import cli as ventifs_cli
from ventifs.cli.program import ventifs
from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import NOFID, NONUNAME, NOTAG, Dialect, Tattach, Tversion
from ventifs.store import Store
from ventifs.text import printable
from ventifs.tree.versions.catalog import versions
from ventifs.tree.versions.forgotten import forgetting
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split

# What progress draws on a terminal, and nothing else.
DRAWN = re.compile(
    rb"\x1b\[\?25[lh]|\r\x1b\[2K|\r(?:\x1b\[1A\x1b\[2K)+|\x1b\[(?:0|38;5;\d{1,3}|3[0-7]|1;3[0-7])m"
)
HOSTILE = NAME.replace(b"\xed\xa0\x80", b"")


def commands() -> dict[str, click.Command]:
    """All of them, by their words."""
    found: dict[str, click.Command] = {}
    with click.Context(ventifs) as context:
        for name in ventifs.list_commands(context):
            command = ventifs.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                found |= {f"{name} {each}": command.commands[each] for each in command.commands}
            else:
                found[name] = command
    return found


LEAVES = commands()

# Of each command, over hostile stores, disks and servers. `--json` is tried of all that have it.
CASES: dict[str, list[str]] = {
    "init": ["init --store {evil}/new{n}", "init --store {store}"],
    "archive": [
        "archive {home}/tree --name x{n}",
        "archive {home}/tree --name x --dry-run --jobs 1",
        "archive {home}/odd.tar --name x{n}",
        "archive {home}/cut.tar --name x{n}",
        "archive {home}/disk.img --name x{n}",
        "archive {home}/over.qcow2 --name x",
        "archive {evil}/none --name x",
        "archive {home}/tree/socket{name} --name x",
    ],
    "versions": [
        "versions",
        "versions forged",
        "versions nothing",
        "versions --tag {text}",
        "versions --forgotten",
        "versions x{name} --forgotten",
    ],
    "ls": ["ls t", "ls -lR t", "ls -0 t", "ls t:/{name}/none", "ls forged", "ls t:/file{name}"],
    "cat": ["cat t:/file{name}", "cat t:/link{name}", "cat t:/{name}", "cat broken:/lost{name}"],
    "log": ["log t", "log t:/file{name}", "log forged", "log t:/x{name}"],
    "diff": ["diff t@~1 t", "diff --stat t@~1 t", "diff t broken", "diff t t x{name}"],
    "find": ["find t *", "find -0 t *", "find t *{name}*"],
    "du": ["du t", "du disk", "du t:/{name}", "du t:/x{name}"],
    "restore": [
        "restore t {evil}/back{n}",
        "restore t {evil}/back",
        "restore t {evil}/back",
        "restore broken {evil}/back{n}",
        "restore t {evil}/plan --dry-run -v",
        "restore t:/file{name} {evil}/file{n}",
        "restore t {evil}/none --include x{name}",
        "restore disk {evil}/disk{n}",
        "restore disk {evil}/disk{n}.vhd --format vhd",
        "restore t {evil}/back --overwrite",
    ],
    "export": ["export t", "export broken", "export t:/x{name}"],
    "copy": [
        "copy t --to {evil}/other",
        "copy forged --to {evil}/other",
        "copy t --to {store}",
        "copy disk --to {evil}/other --name {text}",
        "copy t --to {evil}/none",
        "copy x{name}* --to {evil}/other",
        "copy --all --to {evil}/other --dry-run",
        "copy --all --to {evil}/other",
        "copy t* --to {evil}/none",
    ],
    "9p ls": [
        "9p ls {address} /t/latest",
        "9p ls {address} /t/latest -lR",
        "9p ls {evilserver} -lR",
        "9p ls {evilserver}",
        "9p ls {evilserver} bad",
        "9p ls {strange}",
        "9p ls -0 {evilserver}",
        "9p ls {evilserver} --aname refused",
        "9p ls {address} --aname x{name}",
        "9p ls {evilserver} -l --trace",
        "9p ls unix://{evil}/x",
        "9p ls {address} x{name}",
    ],
    "9p cat": ["9p cat {evilserver} {name}", "9p cat {evilserver} bad", "9p cat {evilserver} sub"],
    "9p stat": [
        "9p stat {evilserver} {name}",
        "9p stat {evilserver} bad",
        "9p stat {address} /t/latest/file{name}",
        "9p stat {address} /t/latest/link{name}",
    ],
    "9p get": [
        "9p get {evilserver} / {evil}/got{n}",
        "9p get {evilserver} / {evil}",
        "9p get {address} /t/latest {evil}/got{n}",
        "9p get {evilserver} bad {evil}/got",
        "9p get {address} /t/latest {evil}/got{n} --all",
    ],
    "forget": [
        "forget --keep-last 1 --dry-run",
        "forget forged@latest --force --dry-run",
        "forget t --keep-within {text}",
        "forget t --keep-daily 1 --timezone {text} --dry-run",
        "forget t --keep-tag {text} --dry-run",
        "forget x{name}",
        "forget forged@latest --force --dry-run --reclaim",
    ],
    "undelete": [
        "undelete gone@latest",
        "undelete x{name}@{name} --forgotten {text}",
        "undelete --all x{name}",
    ],
    "hold": ["hold forged@latest", "hold t@latest --until {text}", "hold x{name}@latest"],
    "release": ["release forged@latest", "release t@~1", "release x{name}@{name}"],
    "rename": ["rename forged forged2", "rename forged2 forged", "rename t x{name}"],
    "tag": [
        "tag t@latest --add {text}",
        "tag forged@latest --remove {text}",
        "tag x{name} --add a",
    ],
    "comment": ["comment t@latest {text}", "comment forged@latest x", "comment x{name}@~1 a"],
    "serve": [
        "serve unix://{evil}/x",
        "serve --metrics {text} --stdio",
        "serve --store {evil}/none",
    ],
    "servers": ["servers"],
    "mount": [
        "mount tcp://192.0.2.1 web01:/{name} /mnt --print",
        "mount tcp://192.0.2.1 web01 {evil}/m --print",
        "mount unix://{evil}/x web01 /mnt --print",
        "mount vsock://host web01:/{name} {evil} --print",
        "mount tcp://127.0.0.1:1 web01 {evil}/m",
        "mount tcp://192.0.2.1 web01 /mnt --print -o uname={text}",
    ],
    "stats": [
        "stats",
        "stats t",
        "stats disk",
        "stats x{name}",
        "stats --exact",
        "stats --versions",
        "stats --versions x{name}",
    ],
    "reclaim": [
        "reclaim --dry-run --max-unused 0",
        "reclaim --dry-run --grace 1d",
        "reclaim --grace {text}",
        "reclaim --max-unused {text}",
        "reclaim --store {evil}/none",
        "reclaim --store {evil}/broken",
        "reclaim --store {evil}/other",
    ],
    "check": [
        "check",
        "check --read-data",
        "check --store {evil}/none",
        "check --repair --store {evil}/broken",
        "check --store {evil}/broken",
    ],
    "rebuild-index": ["rebuild-index --store {evil}/other", "rebuild-index --store {evil}/none"],
    "upgrade": [
        "upgrade --store {evil}/other --dry-run",
        "upgrade --store {evil}/other --reserve 1MiB",
        "upgrade --store {evil}/none",
        "upgrade --dry-run --reserve 1MiB",
    ],
}


class World:
    """Where commands run; `says` runs one, and fails when it lets something through."""

    def __init__(self, home: Path, run: Commands, places: dict[str, str]) -> None:
        self.home = home
        self._run = run
        self._places = places
        self._made = 0

    @property
    def store(self) -> str:
        return self._places["store"]

    def words(self, case: str) -> list[str]:
        self._made += 1
        places = {**self._places, "n": str(self._made)}
        return [word.format_map(places) for word in case.split()]

    def says(self, words: Sequence[str], *, terminal: bool) -> Said:
        said = self._run.run(words, terminal=terminal)
        where = f"{words!r} {said!r}"
        assert b"Traceback" not in said.err + said.out, where
        assert said.code in {0, 1, 2, 3}, where
        raw = words[0] in {"cat", "export"} or words[:2] == ["9p", "cat"] or "-0" in words
        if terminal and raw and said.code != 2:
            return said  # contents among the rest; through pipes they are apart
        for text in [said.err] if raw else [said.out, said.err]:
            left = DRAWN.sub(b"", text) if terminal else text
            for line in left.decode().split("\n"):
                assert line.isprintable(), f"{line!r} of {where}"
        return said


def _tars(home: Path) -> None:
    name = TEXT.encode()
    header = bytearray(512)
    for path, at in ((b"../up" + name, 0),):
        header[at : at + len(path)] = path
    header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    header[124:136], header[136:148] = b"00000000000\0", b"00000000000\0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (home / "odd.tar").write_bytes(bytes(header) + bytes(1024))
    (home / "cut.tar").write_bytes(bytes(header).replace(b"00000000000\0", b"00000077777\0", 1))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("hostile")
    evil = home / os.fsdecode(NAME)
    evil.mkdir()
    places = {
        "home": str(home),
        "evil": str(evil),
        "store": str(evil / "s"),
        "text": TEXT,
        "name": os.fsdecode(NAME),
    }
    hostile.tree(home / "tree")
    hostile.image(home / "disk.img")
    hostile.overlay(home / "over.qcow2")
    _tars(home)
    for name in "s", "other", "broken":
        Store.create(evil / name)
    with Store.open(evil / "broken", "write") as store:
        hostile.version(store, "broken", hostile.damaged(store))
    with Store.open(evil / "s", "write") as store:
        hostile.version(store, "disk", hostile.disk(store))
        hostile.version(store, "forged", forging.directory(store, b"", []))
        hostile.version(store, "broken", hostile.damaged(store))
        hostile.version(store, "gone", hostile.disk(store))
        store.commit(*forgetting(store, versions(store, "gone"), 1)[1])
    variables = environment(
        home, VENTIFS_STORE=str(evil / "s"), TERM="xterm-256color", COLUMNS="2000", LC_ALL="C.UTF-8"
    )
    split = Split.of(64 << 20)
    with ExitStack() as stack:
        run = stack.enter_context(Commands(home, variables))
        first = run.run(["archive", "tree", "--name", "t"], terminal=False)
        (home / "tree" / os.fsdecode(b"file" + NAME)).write_text("changed")
        (home / "tree" / os.fsdecode(b"new" + NAME)).write_text("new")
        second = run.run(["archive", "tree", "--name", "t"], terminal=False)
        assert (first.code, second.code) == (0, 0), (first, second)
        store = stack.enter_context(Store.open(evil / "s", cache_bytes=split.clumps))
        for name, handle in (
            ("evilserver", hostile.Server()),
            ("strange", hostile.Server(speaks=False)),
        ):
            places[name] = stack.enter_context(served(handle.handle, home / f"{name}.sock"))
        places["address"] = stack.enter_context(
            sessions(ArchiveFilesystem(store, split), home / "t.sock")
        )
        yield World(home, run, places)


def test_every_command_has_its_cases() -> None:
    assert set(CASES) == set(LEAVES)


BOTH = pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])


@BOTH
@pytest.mark.parametrize("name", CASES)
def test_what_a_command_says_of_hostile_things(world: World, name: str, terminal: bool) -> None:
    has_json = any(param.name == "as_json" for param in LEAVES[name].params)
    for case in CASES[name]:
        world.says(world.words(case), terminal=terminal)
        if has_json:
            said = world.says([*world.words(case), "--json"], terminal=False)
            assert said.out.isascii()
            if said.code == 0:  # else a listing may have been cut short
                json.loads(said.out)


@BOTH
@pytest.mark.parametrize("name", LEAVES)
def test_what_a_command_says_of_hostile_arguments(world: World, name: str, terminal: bool) -> None:
    """All its arguments are hostile; then an argument too many, and each of its options, too."""
    params = LEAVES[name].params
    words = name.split()
    bad = os.fsdecode(HOSTILE)
    arguments = [bad for each in params if isinstance(each, click.Argument)]
    own = [each.opts[-1] for each in params if isinstance(each, click.Option) and not each.is_flag]
    for more in [], [bad], [f"--{bad}"], *([option, bad] for option in own):
        world.says([*words, *arguments, *more], terminal=terminal)


def _attach(path: Path, uname: bytes, aname: bytes) -> socket.socket:
    """A connection of a hostile client, which has asked for what `aname` names as `uname`."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    codec = MessageCodec.of(Dialect.LINUX)
    for tag, message in (
        (NOTAG, Tversion(65536, b"9P2000.L")),
        (1, Tattach(0, NOFID, uname, aname, NONUNAME)),
    ):
        client.sendall(codec.encode(message, tag))
        assert client.recv(65536)
    return client


@pytest.mark.parametrize(
    "log", [[], ["--log-json"], ["--workers", "2"]], ids=["", "json", "workers"]
)
def test_what_a_server_says_of_a_hostile_client(world: World, log: list[str]) -> None:
    home, path = world.home, world.home / "x.sock"
    (home / "log").unlink(missing_ok=True)
    words = [f"unix://{path}", "--store", world.store, "--metrics", "tcp://127.0.0.1:0", *log]
    with Serve(home, *words, "--trace", lines=2) as server:
        clients = [_attach(path, NAME, aname) for aname in (b"t", b"x" + NAME, b"t:/x" + NAME)]
        shown = world.says(["servers"], terminal=False).out
        assert b" as a\\x1b]52;c;ZXZpbA==\\x07" in shown
        assert world.says(["servers"], terminal=True).out.count(b"\n") == shown.count(b"\n")
        told = world.says(["servers", "--json"], terminal=False).out
        assert told.isascii()
        users = {
            session["user"] for one in json.loads(told) for session in one["process"]["sessions"]
        }
        assert printable(NAME) in users
        found = re.match(r"metrics at tcp://(\S+)", server.said[1])
        assert found is not None
        with urlopen(f"http://{found[1]}/metrics") as answer:
            assert all(line.isprintable() for line in answer.read().decode().split("\n"))
        for client in clients:
            client.close()
        assert server.stop() == 0
        assert server.process.stdout is not None
        traced = server.process.stdout.read()
    for text in traced, server.log.encode():
        assert all(line.isascii() and line.isprintable() for line in text.decode().split("\n"))
    assert "closed" in server.log


@BOTH
@pytest.mark.parametrize("words", [[], ["9p"]])
def test_what_is_said_of_a_command_that_is_none(
    world: World, words: list[str], terminal: bool
) -> None:
    for bad in os.fsdecode(HOSTILE), f"--{os.fsdecode(HOSTILE)}":
        assert world.says([*words, bad], terminal=terminal).code == 2


def test_progress_draws_a_hostile_path_harmlessly(world: World) -> None:
    words = ["archive", str(world.home / "tree"), "--name", "t", "--dry-run", "--no-cache"]
    said = world.says(words, terminal=True)
    assert b"\x1b[2K" in said.err
    assert f"  {printable(NAME)}".encode() in said.err


def test_commands_print_by_one_module() -> None:
    """Whatever else prints is not escaped when progress has the terminal."""
    package = Path(ventifs_cli.__file__).parent
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and path.name not in {"output.py", "listing.py"}:
                called = ast.unparse(node.func)
                assert called not in {
                    "print",
                    "click.echo",
                    "click.secho",
                    "sys.stdout.write",
                    "sys.stderr.write",
                    "json.dump",
                    "click.echo_via_pager",
                    "msgspec.json.format",
                }, f"{path.name}:{node.lineno}"


def test_json_is_ascii() -> None:
    for path in Path(ventifs_cli.__file__).parent.rglob("*.py"):
        assert "ensure_ascii" not in path.read_text()

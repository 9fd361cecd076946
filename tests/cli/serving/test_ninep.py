"""`ventifs 9p` against real sessions, and against servers that mean harm."""

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.answering import served, sessions
from tests.support.commanding import SCRIPT, run
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.trace_lines import parse
from tests.support.trees import archived, odd_tree, plain_tree, remove
from tests.support.walker import same
from ventifs.buffer import Buffer
from ventifs.ninep.protocol.messages import NONUNAME, Tattach, Tversion
from ventifs.store import Store
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split
from ventifs.vfs.interface import (
    DIRECTORY,
    FILE,
    Attributes,
    File,
    Identity,
    Load,
    ReadOnlyFile,
    ReadOnlyOpened,
    Refused,
    Statfs,
    User,
)

ROOT = os.geteuid() == 0
TREE = "/t/latest"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tree at `tree`, archived as `t`."""
    home = tmp_path_factory.mktemp("served")
    (odd_tree if ROOT else plain_tree)(home / "tree")
    Store.create(home / "s")
    archived(home / "s", home / "tree")
    yield home
    remove(home / "tree")


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """The server of all versions of the store."""
    split = Split.of(64 << 20)
    with (
        Store.open(home / "s", cache_bytes=split.clumps) as store,
        sessions(ArchiveFilesystem(store, split), home / "socket") as address,
    ):
        yield address


def lines(home: Path, *words: str | bytes) -> list[bytes]:
    return run(home, "9p", *words).stdout.splitlines()


# ls, stat, cat


def test_ls_lists_names_sorted_and_one_file_by_itself(home: Path, address: str) -> None:
    assert lines(home, "ls", address) == [b"t"]
    assert b"latest" in lines(home, "ls", address, "/t")
    assert lines(home, "ls", address, f"{TREE}/links") == [b"b", b"c", b"in"]
    assert lines(home, "ls", address, f"{TREE}/links/b") == [b"b"]
    assert lines(home, "ls", address, "links", "--aname", "t@latest") == [b"b", b"c", b"in"]
    assert b"new\\nline" in lines(home, "ls", address, TREE)
    raw = run(home, "9p", "ls", "-0", address, TREE).stdout.split(b"\0")
    assert raw == [*sorted(os.listdir(os.fsencode(home / "tree"))), b""]


@pytest.mark.parametrize("dialect", ["9P2000", "9P2000.u", "9P2000.L"])
def test_ls_long_and_recursive(home: Path, address: str, dialect: str) -> None:
    found = lines(home, "ls", "-lR", address, f"{TREE}/links", "--dialect", dialect)
    inside = home / "tree" / "links"
    names = [line.split()[-1] for line in found]
    assert names == [b"b", b"c", b"in", b"in/a"]
    assert found[0].startswith(b"-rw-r--r--")
    assert f" {(inside / 'b').stat().st_uid} ".encode() in found[0]
    assert b" 600 " in found[0]
    assert found[2].startswith(b"d")


def test_json_of_a_listing_has_everything(home: Path, address: str) -> None:
    elements = {
        each["path"]: each
        for each in json.loads(run(home, "9p", "ls", "--json", address, TREE).stdout)
    }
    there = (home / "tree" / "size4097").stat()
    size = elements["size4097"]
    assert (size["mode"], size["size"], size["owner"], size["nlink"]) == (
        f"{there.st_mode:o}",
        4097,
        str(there.st_uid),
        1,
    )
    assert elements["absolute"]["target"] == "/etc/passwd"
    assert elements["\ufffd\ufffd"]["path_base64"] == "//4="


def test_stat_tells_all(home: Path, address: str) -> None:
    facts = json.loads(run(home, "9p", "stat", "--json", address, f"{TREE}/links/b").stdout)
    assert facts["nlink"] == 3
    assert facts["dialect"] == "9P2000.L"
    assert facts["size"] == 600
    text = run(home, "9p", "stat", address, f"{TREE}/absolute").stdout
    assert b"target   /etc/passwd\n" in text
    assert b"mode     120777\n" in text


def test_cat_prints_files_and_nothing_else(home: Path, address: str) -> None:
    for name in ("size0", "size300000", "sparse"):
        printed = run(home, "9p", "cat", address, f"{TREE}/{name}").stdout
        assert printed == (home / "tree" / name).read_bytes()
    assert b"'ventifs 9p ls'" in run(home, "9p", "cat", address, TREE, expected=1).stderr
    link = run(home, "9p", "cat", address, f"{TREE}/absolute", expected=1)
    assert b"is not followed" in link.stderr


# What a person reads who mistyped


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("ls ADDRESS /nope", 1, "ventifs: /nope: no such file or directory\n"),
        ("cat ADDRESS /t/nope/x", 1, "ventifs: /t/nope/x: no such file or directory\n"),
        ("ls ADDRESS --aname nope", 1, "cannot attach 'nope': no such file or directory\n"),
        ("ls /socket", 2, "write unix:///socket"),
        ("ls unix:///nope/socket", 1, "ventifs: unix:///nope/socket: cannot connect: no such file"),
        ("ls ADDRESS --dialect 9P2000.X", 2, "'9P2000.X' is not one of"),
        ("ls ADDRESS --user 99999999999", 2, "numbers of users end at 4294967295"),
        ("get ADDRESS /t", 2, "Missing argument 'LOCAL'"),
    ],
)
def test_mistakes(home: Path, address: str, words: str, code: int, message: str) -> None:
    failed = run(home, "9p", *words.replace("ADDRESS", address).split(), expected=code)
    assert message in failed.stderr.decode()


def test_names_that_are_not_text_are_told_readably(home: Path, address: str) -> None:
    nowhere = run(home, "9p", "ls", address, "--aname", b"t@latest:/\xff", expected=1)
    assert b"cannot attach 't@latest:/\\xff': no such" in nowhere.stderr
    try:
        got = run(home, "9p", "get", address, f"{TREE}/size0", b"\xe9")
        assert got.stdout == b"copied 1 entry, 0 B to \\xe9\n"
    finally:
        (home / os.fsdecode(b"\xe9")).unlink(missing_ok=True)


def test_who_one_is_and_every_message_can_be_seen(home: Path, address: str) -> None:
    traced = run(home, "9p", "ls", address, "--trace", "--user", "7777777").stderr.decode()
    messages = [parse(line) for line in traced.splitlines()]
    assert isinstance(messages[0].message, Tversion)
    attach = next(each.message for each in messages if isinstance(each.message, Tattach))
    assert (attach.uname, attach.n_uname) == (b"7777777", 7777777)
    traced = run(home, "9p", "ls", address, "--trace", "--user", "no-such-user").stderr.decode()
    assert "uname 'no-such-user' aname '' n_uname -1" in traced
    assert NONUNAME == 2**32 - 1
    traced = run(home, "9p", "ls", address, "--trace").stderr.decode()
    assert f"n_uname {os.geteuid()}\n" in traced


# get


def test_get_brings_a_tree_and_gives_nobody_rights(home: Path, address: str) -> None:
    facts = json.loads(
        run(home, "9p", "get", address, TREE, "got", "--json", expected=3 if ROOT else 0).stdout
    )
    try:
        assert facts["failed"] == []
        left = {each["path"] for each in facts["left"]}
        assert left == ({"null", "disk"} if ROOT else set())
        got, tree = home / "got", home / "tree"
        assert set(os.listdir(got)) == set(os.listdir(tree)) - left
        for name in os.listdir(got):
            ours, theirs = (got / name).lstat(), (tree / name).lstat()
            assert ours.st_uid == os.geteuid()
            assert ours.st_mode == theirs.st_mode & ~(stat.S_ISUID | stat.S_ISGID)
            if stat.S_ISREG(ours.st_mode):
                assert (got / name).read_bytes() == (tree / name).read_bytes()
                assert ours.st_mtime_ns == theirs.st_mtime_ns
        assert os.readlink(got / "dangling") == "no/where"
        assert (got / "links" / "b").samefile(got / "links" / "in" / "a")
        assert (got / "sparse").stat().st_blocks * 512 < 1 << 20
        if ROOT:
            assert os.getxattr(got / "size33", "user.n1")
            assert "security.capability" not in os.listxattr(got / "owned")
    finally:
        remove(home / "got")


@pytest.mark.skipif(not ROOT, reason="needs root, to make devices and owners")
def test_get_all_brings_everything(home: Path, address: str) -> None:
    try:
        out = run(home, "9p", "get", address, TREE, "got", "--all").stdout
        assert out.startswith(b"copied ")
        same(home / "tree", home / "got")
    finally:
        remove(home / "got")


@pytest.mark.parametrize("dialect", ["9P2000", "9P2000.u"])
def test_get_in_old_dialects(home: Path, address: str, dialect: str) -> None:
    try:
        facts = json.loads(
            run(
                home, "9p", "get", address, f"{TREE}/links", "old", "--json", "--dialect", dialect
            ).stdout
        )
        linked = dialect == "9P2000.u"  # which tells of names of one file, so that it is one again
        assert (facts["entries"], facts["bytes"]) == (5, 600 if linked else 1800)
        assert (home / "old" / "in" / "a").read_bytes() == b"linked" * 100
        then = (home / "tree" / "links" / "b").stat().st_mtime_ns
        assert (home / "old" / "b").stat().st_mtime_ns == then // 10**9 * 10**9
    finally:
        remove(home / "old")


def test_get_brings_single_files(home: Path, address: str) -> None:
    try:
        run(home, "9p", "get", address, f"{TREE}/size4097", "one")
        assert (home / "one").read_bytes() == (home / "tree" / "size4097").read_bytes()
        run(home, "9p", "get", address, f"{TREE}/absolute", "link")
        assert os.readlink(home / "link") == "/etc/passwd"
    finally:
        (home / "one").unlink(missing_ok=True)
        (home / "link").unlink(missing_ok=True)


def test_get_never_overwrites(home: Path, address: str) -> None:
    local = home / "local"
    local.mkdir()
    (local / "b").write_bytes(b"mine")
    try:
        failed = run(home, "9p", "get", address, f"{TREE}/links", "local", expected=1)
        assert b"not empty; name a new or empty directory" in failed.stderr
        failed = run(home, "9p", "get", address, f"{TREE}/links/b", "local/b", expected=1)
        assert b"is there already; name another path" in failed.stderr
        (local / "link").symlink_to("elsewhere")
        failed = run(home, "9p", "get", address, f"{TREE}/links/b", "local/link", expected=1)
        assert b"is there already" in failed.stderr
        failed = run(home, "9p", "get", address, f"{TREE}/nope", "local/new", expected=1)
        assert b"no such file" in failed.stderr
        assert sorted(os.listdir(local)) == ["b", "link"]
        assert (local / "b").read_bytes() == b"mine"
    finally:
        remove(local)


# Servers that mean harm


class Odd(ReadOnlyFile):
    """A directory whose names lead on as the test says."""

    def __init__(self, names: dict[bytes, Any], path: int = 2) -> None:
        self.names = names
        self.path = path
        self.identity = Identity(DIRECTORY, 1, path)
        self.name = b"/"
        self.kind = 4

    def attributes(self) -> Attributes:
        return Attributes(0o40755, 0, 0, 1, 0, 4096, 0, 0, 0, 8)

    def walk(self, name: bytes) -> File:
        if name == b"..":
            return self
        below = self.names[name]
        file: File = below(self) if callable(below) else below
        return file

    def open(self, flags: int) -> "OddOpened":
        return OddOpened(self)

    def readlink(self) -> bytes:
        raise Refused(22)

    def xattr_names(self) -> list[bytes]:
        return []

    def xattr(self, name: bytes) -> bytes:
        raise Refused(61)

    def statfs(self) -> Statfs:
        return Statfs()


class OddOpened(ReadOnlyOpened):
    def __init__(self, file: Odd) -> None:
        self.file = file

    def read(self, offset: int, count: int) -> list[Buffer]:
        return [b"evil"] if offset == 0 else []

    def attributes(self) -> Attributes:
        return self.file.attributes()

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        for ordinal, name in enumerate([b".", b"..", *self.file.names], 1):
            if ordinal > cookie:
                file = self.file if ordinal <= 2 else self.file.walk(name)
                yield ordinal, name, file.identity, file.kind


class OddFilesystem:
    def __init__(self, root: Odd) -> None:
        self.root = root

    def attach(self, user: User, aname: bytes) -> File:
        return self.root

    def session(self) -> "OddFilesystem":
        return self

    def ahead(self) -> list[Load]:
        return []


class OddRegular(Odd):
    """A file that says it has no bytes, and has some."""

    def __init__(self, path: int, mode: int = 0o100644) -> None:
        super().__init__({}, path)
        self.identity = Identity(FILE, 1, path)
        self.mode = mode
        self.kind = mode >> 12

    def attributes(self) -> Attributes:
        return Attributes(self.mode, 0, 0, 1, 0, 0, 1 << 75, 0, 0, 0)


@pytest.mark.parametrize("name", [b"../evil", b"/tmp/evil", b"a/b", b"", b"nul\0nul"])
def test_names_that_lead_elsewhere_make_nothing(tmp_path: Path, name: bytes) -> None:
    root = Odd({name: OddRegular(5)})
    with sessions(OddFilesystem(root), tmp_path / "socket") as address:
        failed = run(tmp_path, "9p", "get", address, "/", "local", expected=1)
        assert b"a name that cannot be" in failed.stderr
        assert b"a name that cannot be" in run(tmp_path, "9p", "ls", address, expected=1).stderr
    assert sorted(os.listdir(tmp_path)) == ["local", "socket"]
    assert os.listdir(tmp_path / "local") == []


def test_directories_without_end_are_left(tmp_path: Path) -> None:
    def deeper(above: Odd) -> Odd:
        return Odd({b"d": deeper}, above.path + 1)

    within = Odd({})
    within.names[b"self"] = within
    with sessions(OddFilesystem(within), tmp_path / "socket") as address:
        failed = run(tmp_path, "9p", "get", address, "/", "local", expected=1)
        assert b"self: not copied: a directory within itself" in failed.stderr
        assert os.listdir(tmp_path / "local") == []
        listed = run(tmp_path, "9p", "ls", "-R", address, expected=1)
        assert listed.stdout == b"self\n"
        assert b"within itself" in listed.stderr
    root = Odd({b"d": deeper})
    with sessions(OddFilesystem(root), tmp_path / "socket2") as address:
        failed = run(tmp_path, "9p", "get", address, "/", "deep", expected=1)
        assert b"not copied: more than 200 directories deep" in failed.stderr
        assert run(tmp_path, "9p", "ls", "-R", address, expected=1).stdout.count(b"\n") == 200
    subprocess.run(["rm", "-r", tmp_path / "deep"], check=True)


def test_odd_times_sizes_and_modes_do_no_harm(tmp_path: Path) -> None:
    root = Odd({b"file": OddRegular(5), b"good": OddRegular(6, 0o104777)})
    probe = tmp_path / "probe"
    probe.touch()
    os.utime(probe, (0, 1 << 44))
    held = probe.stat().st_mtime == 1 << 44  # on tmpfs it is, ext4 makes it the year 2446
    with sessions(OddFilesystem(root), tmp_path / "socket") as address:
        assert b"@" in run(tmp_path, "9p", "ls", "-l", address).stdout
        assert run(tmp_path, "9p", "cat", address, "file").stdout == b"evil"
        copied = run(tmp_path, "9p", "get", address, "/", "local", expected=0 if held else 3)
    assert held or b"this file system made it" in copied.stderr
    assert (tmp_path / "local" / "file").read_bytes() == b"evil"
    assert (tmp_path / "local" / "good").stat().st_mode == 0o100777


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_server_that_says_nothing_can_be_left(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    async def silent(stream: trio.abc.Stream) -> None:
        while await stream.receive_some():
            (tmp_path / "connected").touch()

    with served(silent, tmp_path / "socket") as address:
        child = subprocess.Popen([SCRIPT, "9p", "ls", address], stderr=subprocess.PIPE)
        wait_until((tmp_path / "connected").exists)
        child.send_signal(number)
        _, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == code
    assert b"Traceback" not in err


def test_a_server_that_hangs_up_is_told(tmp_path: Path) -> None:
    async def rude(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    with served(rude, tmp_path / "socket") as address:
        failed = run(tmp_path, "9p", "ls", address, expected=1)
    assert failed.stderr.count(b"\n") == 1
    assert b"the server sent a message of" in failed.stderr

"""Processes of the host swap names for symbolic links, and move directories out of the export.

Whatever a client does meanwhile, it reads, changes and creates nothing outside: every content, name
and attribute there is as it was, and no reply contains a word of it. Each operation is attacked for
2 seconds, or for 60 if VENTIFS_LONG is set.
"""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct

import pytest

from tests.support.attacker import SECRET, laid_out
from tests.support.live_talk import TOP, LiveTalk, served
from tests.support.privileges import open_directory
from tests.support.threads import in_thread
from ventifs.ninep.protocol import messages as m
from ventifs.vfs.interface import DIRECTORY, SYMLINK

pytestmark = pytest.mark.slow

SECONDS = "60" if os.environ.get("VENTIFS_LONG") else "2"
ATTACKER = [sys.executable, "-m", "tests.support.attacker"]
DIR, FILE, NEW, UP, SUB, FAR = range(1, 7)  # fids
ALL = (DIR, FILE, NEW, UP, SUB, FAR)
MASK = 0x17FF
ROUNDS_MIN = 20
_DIRENT = Struct("<BIQQBH")


class Attack:
    """A running attack.

    Attributes:
        forbidden: the numbers of the files outside.
        changes: how many changes it has made, once it has ended.
    """

    def __init__(self, kind: str, top: Path, forbidden: set[int]) -> None:
        self.forbidden = forbidden
        self.changes = 0
        self._process = subprocess.Popen(
            [*ATTACKER, kind, str(top)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "attacks\n"
        self._clock = subprocess.Popen(["sleep", SECONDS])

    def goes_on(self) -> bool:
        assert self._process.poll() is None, "the attacker has ended"
        return self._clock.poll() is None

    def end(self) -> None:
        self._process.terminate()
        out, _ = self._process.communicate()
        self._clock.kill()
        self._clock.wait()
        self.changes = int(out)


@contextmanager
def attacked(kind: str) -> Iterator[tuple[Path, Path, Attack]]:
    """An export under attack, and what lies outside; sees that that stays as it is."""
    with open_directory() as top:
        export, outside = laid_out(top)
        before = state(outside)
        attack = Attack(kind, top, {path.lstat().st_ino for path in [outside, *outside.rglob("*")]})
        try:
            yield export, outside, attack
        finally:
            attack.end()
        assert state(outside) == before
        assert attack.changes  # how many depends on the machine


def state(top: Path) -> dict[str, tuple[object, ...]]:
    """All that can be known of a directory; times of the top itself change as names move there."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        content: object = None
        times: tuple[int, ...] = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes() if status.st_atime_ns == 0 else "it was read"
            os.utime(path, ns=(0, status.st_mtime_ns))
            times = (status.st_mtime_ns,)
        elif stat.S_ISLNK(status.st_mode):
            content, times = os.readlink(path), (status.st_mtime_ns,)
        elif path == top:
            times = ()
        xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattrs(path)}
        ids = (status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid)
        found[str(path)] = (ids, status.st_size, times, content, sorted(xattrs.items()))
    return found


def _xattrs(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


# What a client does with the names that are attacked. Each begins with DIR as what `d` was when it
# was walked to: a directory or a symbolic link.


def walk(client: LiveTalk) -> None:
    client.do(m.Twalk(DIR, FILE, (b"f",)))
    client.do(m.Twalk(DIR, SUB, (b"sub",)))
    client.do(m.Twalk(SUB, NEW, (b"g",)))
    client.do(m.Twalk(TOP, FAR, (b"d", b"sub", b"g")))
    for fid in (DIR, FILE, SUB, NEW, FAR):
        client.do(m.Tgetattr(fid, MASK))
        client.do(m.Tstatfs(fid))


def climb(client: LiveTalk) -> None:
    """Go up from where the directory is now: to what is in the export, or nowhere."""
    client.do(m.Twalk(DIR, SUB, (b"sub",)))
    for fid, names in ((DIR, (b"..",)), (SUB, (b"..", b"..")), (SUB, (b"..", b"..", b".."))):
        client.do(m.Twalk(fid, UP, names))
        client.do(m.Tgetattr(UP, MASK))
        client.do(m.Twalk(UP, FILE, (b"f",)))
        client.do(m.Tlopen(FILE, os.O_RDWR))
        client.do(m.Tread(FILE, 0, 100))
        client.do(m.Twrite(FILE, 0, b"x"))
        client.do(m.Tmkdir(UP, b"new", 0o777, 0))
        client.do(m.Tunlinkat(UP, b"new", 0x200))
        client.do(m.Tunlinkat(UP, b"canary-name", 0))
        client.do(m.Tlopen(UP, os.O_RDONLY))
        client.do(m.Treaddir(UP, 0, 4000))
        client.clunk(UP, FILE)
    client.do(m.Twalk(TOP, FAR, (b"d", b"..", b"f")))
    client.do(m.Twalk(TOP, FAR, (b"d", b"sub", b"..", b"..", b"canary-name")))
    client.do(m.Tgetattr(FAR, MASK))


def open_and_read(client: LiveTalk) -> None:
    for names in ((b"f",), (b"sub", b"g")):
        client.do(m.Twalk(DIR, FILE, names))
        client.do(m.Tlopen(FILE, os.O_RDONLY))
        client.do(m.Tread(FILE, 0, 100))
        client.clunk(FILE)


def open_and_write(client: LiveTalk) -> None:
    for names, flags in (
        ((b"f",), os.O_RDWR),
        ((b"f",), os.O_WRONLY | os.O_TRUNC),
        ((b"sub", b"g"), os.O_WRONLY | os.O_APPEND),
    ):
        client.do(m.Twalk(DIR, FILE, names))
        client.do(m.Tlopen(FILE, flags))
        client.do(m.Twrite(FILE, 0, b"written"))
        client.do(m.Tfsync(FILE, 0))
        client.clunk(FILE)


def create(client: LiveTalk) -> None:
    for name, flags in ((b"f", 0), (b"new", 0), (b"new", os.O_EXCL), (b"f", os.O_TRUNC)):
        client.do(m.Twalk(DIR, NEW, ()))
        client.do(m.Tlcreate(NEW, name, flags | os.O_CREAT | os.O_RDWR, 0o666, 0))
        client.do(m.Twrite(NEW, 0, b"written"))
        client.do(m.Tread(NEW, 0, 100))
        client.clunk(NEW)
    client.do(m.Tunlinkat(DIR, b"new", 0))


def mkdir(client: LiveTalk) -> None:
    client.do(m.Tmkdir(DIR, b"new", 0o777, 0))
    client.do(m.Tmkdir(DIR, b"f", 0o777, 0))
    client.do(m.Twalk(DIR, SUB, (b"sub",)))
    client.do(m.Tmkdir(SUB, b"new", 0o777, 0))
    client.do(m.Tunlinkat(SUB, b"new", 0x200))
    client.do(m.Tunlinkat(DIR, b"new", 0x200))


def symlink(client: LiveTalk) -> None:
    client.do(m.Tsymlink(DIR, b"new", b"/etc/passwd", 0))
    client.do(m.Tsymlink(DIR, b"f", b"/etc/passwd", 0))
    client.do(m.Tunlinkat(DIR, b"new", 0))


def mknod(client: LiveTalk) -> None:
    client.do(m.Tmknod(DIR, b"new", stat.S_IFIFO | 0o666, 0, 0, 0))
    client.do(m.Tmknod(DIR, b"f", stat.S_IFREG | 0o666, 0, 0, 0))
    client.do(m.Tunlinkat(DIR, b"new", 0))


def link(client: LiveTalk) -> None:
    client.do(m.Twalk(DIR, FILE, (b"f",)))
    client.do(m.Tlink(DIR, FILE, b"new"))
    client.do(m.Tlink(TOP, FILE, b"new"))
    client.do(m.Twalk(TOP, NEW, (b"new",)))
    client.do(m.Tlopen(NEW, os.O_RDWR))
    client.do(m.Tread(NEW, 0, 100))
    client.do(m.Twrite(NEW, 0, b"x"))
    client.do(m.Tunlinkat(TOP, b"new", 0))
    client.do(m.Tunlinkat(DIR, b"new", 0))


def rename(client: LiveTalk) -> None:
    client.do(m.Trenameat(DIR, b"f", TOP, b"new"))
    client.do(m.Twalk(TOP, NEW, (b"new",)))
    client.do(m.Tlopen(NEW, os.O_RDONLY))
    client.do(m.Tread(NEW, 0, 100))
    client.do(m.Trenameat(TOP, b"new", DIR, b"f"))
    client.do(m.Twalk(DIR, FILE, (b"f",)))
    client.do(m.Trename(FILE, DIR, b"new"))
    client.do(m.Trename(FILE, DIR, b"f"))
    client.do(m.Twalk(DIR, SUB, (b"sub",)))
    client.do(m.Trenameat(SUB, b"g", DIR, b"h"))
    client.do(m.Trenameat(DIR, b"h", SUB, b"g"))


def unlink(client: LiveTalk) -> None:
    client.do(m.Tunlinkat(DIR, b"f", 0))
    client.do(m.Tunlinkat(DIR, b"link", 0))
    client.do(m.Tunlinkat(DIR, b"empty", 0x200))
    client.do(m.Twalk(DIR, SUB, (b"sub", b"g")))
    client.do(m.Tremove(SUB))
    client.do(m.Tsymlink(DIR, b"link", b"within", 0))
    client.do(m.Tmkdir(DIR, b"empty", 0o755, 0))
    for way, name in (((), b"f"), ((b"sub",), b"g")):
        client.do(m.Twalk(DIR, NEW, way))
        client.do(m.Tlcreate(NEW, name, os.O_RDWR, 0o644, 0))
        client.clunk(NEW)


def setattr_of(client: LiveTalk) -> None:
    client.do(m.Twalk(DIR, FILE, (b"f",)))
    client.do(m.Twalk(DIR, SUB, (b"sub",)))
    for fid in (DIR, FILE, SUB):
        for valid in (1, 2 | 4, 8, 0x10 | 0x80, 0x20):
            client.do(m.Tsetattr(fid, valid, 0o777, 7, 7, 3, 9, 9, 9, 9))
        client.do(m.Tsetattr(fid, 2 | 4, 0, 0, 0, 0, 0, 0, 0, 0))


def xattrs(client: LiveTalk) -> None:
    client.do(m.Twalk(DIR, FILE, (b"f",)))
    for fid in (DIR, FILE):
        for name in (b"", b"user.x"):
            if found := client.do(m.Txattrwalk(fid, NEW, name)):
                client.do(m.Tread(NEW, 0, found.size))
            client.clunk(NEW)
        client.do(m.Twalk(fid, NEW, ()))
        client.do(m.Txattrcreate(NEW, b"user.y", 7, 0))
        client.do(m.Twrite(NEW, 0, b"written"))
        client.clunk(NEW)


def readlink(client: LiveTalk) -> None:
    client.do(m.Twalk(DIR, FILE, (b"link",)))
    client.do(m.Treadlink(FILE))


def readdir(client: LiveTalk) -> None:
    client.do(m.Twalk(DIR, SUB, (b"sub",)))
    for fid in (DIR, SUB):
        client.do(m.Tlopen(fid, os.O_RDONLY | os.O_DIRECTORY))
        client.do(m.Treaddir(fid, 0, 4000))


Operation = Callable[[LiveTalk], None]
OPERATIONS: list[Operation] = [
    walk, climb, open_and_read, open_and_write, create, mkdir, symlink, mknod, link, rename,
    unlink, setattr_of, xattrs, readlink, readdir,
]  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("kind", ["symlink", "move"])
def test_nothing_outside_is_reached(kind: str, operation: Operation) -> None:
    with attacked(kind) as (export, _, attack):
        kinds = in_thread(lambda: attempts(export, operation, attack))
    assert DIRECTORY in kinds
    assert kind == "move" or SYMLINK in kinds, "the attack has not met the client"


def attempts(export: Path, operation: Operation, attack: Attack) -> set[int]:
    """Repeat an operation under attack; return the kinds of file that `d` was.

    Three clients take turns: one whose files stay pinned, and two whose files are found again each
    time, by handles and by names.
    """
    kinds: set[int] = set()
    with (
        served(export) as pinned,
        served(export, pins_max=1) as evicted,
        served(export, pins_max=1) as by_names,
    ):
        by_names.tree._mount = None
        clients = [LiveTalk(live) for live in (pinned, evicted, by_names)]
        rounds = 0
        while attack.goes_on() or rounds < ROUNDS_MIN:
            for client in clients:
                kinds |= attempt(client, operation, attack.forbidden)
            rounds += 1
        assert evicted.tree.pins.evictions
        assert by_names.tree.pins.evictions
        for client in clients:
            client.close()
    return kinds


def attempt(client: LiveTalk, operation: Operation, forbidden: set[int]) -> set[int]:
    """Do an operation; return the kind of file that `d` was, if it was there."""
    kinds: set[int] = set()
    if reply := client.do(m.Twalk(TOP, DIR, (b"d",))):
        kinds.add(reply.wqids[0].type)
        operation(client)
    client.clunk(*ALL)
    for reply in client.replies:
        assert SECRET not in bytes(client.codec.encode(reply, 1)), reply
        assert not forbidden & numbers_in(reply), reply
    client.replies.clear()
    return kinds


def numbers_in(reply: m.Message) -> set[int]:
    """The numbers of the files in a reply, as qids have them."""
    qids = [getattr(reply, "qid", None), *getattr(reply, "wqids", ())]
    numbers = {qid.path for qid in qids if qid is not None}
    if isinstance(reply, m.Rreaddir):
        data, at = bytes(reply.data), 0
        while at < len(data):
            _, _, number, _, _, length = _DIRENT.unpack_from(data, at)
            numbers.add(number)
            at += _DIRENT.size + length
    return numbers


@pytest.mark.parametrize("kind", ["symlink", "move"])
def test_the_attack_succeeds_against_less_care(kind: str) -> None:
    """So that the tests above can fail: against paths, and against `..` of an open directory."""
    with attacked(kind) as (export, outside, _):
        for _ in range(1_000_000):
            with suppress(OSError):
                if SECRET in (_by_path(export) if kind == "symlink" else _by_climbing(export)):
                    break
        else:
            raise AssertionError("a careless server would have withstood the attack")
        os.utime(outside / "f", (0, 1))


def _by_path(export: Path) -> bytes:
    return (export / "d" / "f").read_bytes()


def _by_climbing(export: Path) -> bytes:
    directory = os.open(export / "d", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        file = os.open("../f", os.O_RDONLY, dir_fd=directory)
    finally:
        os.close(directory)
    with open(file, "rb") as opened:
        return opened.read()

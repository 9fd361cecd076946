"""Credentials of threads, and what children do that drop privileges for good.

In a child, a failed assertion is exit code 1.
"""

import ctypes
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.threads import in_thread
from ventifs.vfs.live import capabilities, syscalls
from ventifs.vfs.live.actor import SERVER, Actor, OneUser, acting_here

ALICE, BOB = Actor(1000, 1000, (4001, 4002)), Actor(1001, 1001)

_GET_DUMPABLE = 3  # of prctl


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory of its own that every user can write to; pytest's are closed to others."""
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o777)
        yield Path(top)


def refusal(work: Callable[..., object], *words: object) -> int | None:
    """The errno with which `work(*words)` fails."""
    with pytest.raises(OSError) as raised:
        work(*words)
    return raised.value.errno


def status(thread: str = "thread-self") -> dict[str, str]:
    """The fields of a status in /proc."""
    lines = Path("/proc", thread, "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def acts_as() -> tuple[Actor, int]:
    """This thread's user for files, and its effective capabilities, as the kernel has them."""
    found = status()
    uid, gid = (int(found[name].split()[3]) for name in ("Uid", "Gid"))
    groups = tuple(map(int, found["Groups"].split()))
    return Actor(uid, gid, groups), int(found["CapEff"], 16)


def drop_as_root(root: bool, kept: int) -> None:
    """Drop privileges, and see that every set lacks them, in threads and programs too."""
    os.umask(0o77)
    assert capabilities.drop_privileges(root=root) == kept
    _only(status("self"), kept)
    assert int(status("self")["Umask"], 8) == 0
    in_thread(lambda: _only(status(), kept))
    more = kept | capabilities.SETPCAP
    assert refusal(lambda: syscalls.set_capabilities(kept, more)) == 1
    _only(_of_a_program(), kept)


def drop_and_act(top: str) -> None:
    """Serve users after dropping privileges: modes are exact, files are the users' own."""
    kept = capabilities.drop_privileges(root=True)
    acting = acting_here()
    path = Path(top, "of-alice")
    acting.become(ALICE)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
    assert (path.stat().st_uid, path.stat().st_mode & 0o7777) == (1000, 0o666)
    fd = os.open(path, os.O_PATH)
    os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))  # of a process that is not dumpable
    assert not _is_dumpable()
    acting.as_server()
    _only(status(), kept)
    os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
    os.setxattr(path, "trusted.note", b"root may")
    os.chown(path, 5, 6)


def drop_without(lacking: int, top: str) -> None:
    """Drop privileges as root without a capability, and see that files of others are closed."""
    secret = Path(top, "secret")
    secret.touch(0o600)
    os.chown(secret, ALICE.uid, ALICE.gid)
    _, permitted, _ = syscalls.capabilities()
    left = permitted & ~lacking
    syscalls.set_capabilities(left, left)
    assert capabilities.drop_privileges(root=True) == 0
    assert isinstance(acting_here(), OneUser)
    assert refusal(os.open, secret, os.O_RDONLY) == errno.EACCES


def drop_as_a_user(top: str) -> None:
    """Drop privileges as a user that has none: it stays that user, and cannot act as another."""
    os.setgroups([4001])
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    assert capabilities.drop_privileges(root=True) == 0
    acting = acting_here()
    assert isinstance(acting, OneUser)
    for actor in (BOB, SERVER):
        acting.become(actor)
        assert acts_as() == (Actor(1000, 1000, (4001,)), 0)
    acting.as_server()
    path = Path(top, "file")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
    assert (path.stat().st_uid, path.stat().st_mode & 0o7777) == (1000, 0o666)


def drop_beside_a_thread() -> None:
    """Refuse to drop privileges that another thread would keep."""
    with pytest.raises(RuntimeError):
        in_thread(lambda: capabilities.drop_privileges(root=True))
    assert int(status("self")["CapEff"], 16) & capabilities.SETPCAP


def _only(found: dict[str, str], kept: int) -> None:
    sets = {name: int(found[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")}
    assert sets == dict.fromkeys(sets, kept)
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
    assert found["NoNewPrivs"] == "1"


def _of_a_program() -> dict[str, str]:
    """The status of a program that this process executes."""
    ours, theirs = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, theirs, 1)]
    os.posix_spawn("/bin/cat", ["cat", "/proc/self/status"], {}, file_actions=actions)
    os.close(theirs)
    os.wait()
    with open(ours) as lines:
        fields = [line.partition(":") for line in lines]
    return {name: value.strip() for name, _, value in fields}


def _is_dumpable() -> bool:
    return bool(ctypes.CDLL(None).prctl(_GET_DUMPABLE, 0, 0, 0, 0))

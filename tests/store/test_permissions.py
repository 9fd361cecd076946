"""Owners, groups and modes of a store's files, whatever the umask and whoever writes."""

import ctypes
import errno
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.damage import flip
from tests.support.ledger import put_recipes
from tests.support.modes import GROUP, KINDS, UMASKS, masked, names, wrong
from tests.support.tiny import tiny_store
from ventifs.errors import VentifsError
from ventifs.store import Store, permissions
from ventifs.store.appender import Appender
from ventifs.store.check import check, repair
from ventifs.store.exposure import exposed, odd_line, odd_modes
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.lock import store_lock
from ventifs.store.permissions import Access, create_file, make_directory, prepare
from ventifs.store.rebuild import rebuild_index

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to any group")
kinds = pytest.mark.parametrize(
    "kind",
    ["private", pytest.param("shared", marks=as_root), pytest.param("readers", marks=as_root)],
)
umasks = pytest.mark.parametrize("umask", UMASKS, ids=lambda umask: f"{umask:03o}")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own are closed to them."""
    with TemporaryDirectory(dir="/tmp", prefix="ventifs-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def made(root: Path, kind: str) -> Path:
    """A store of a kind, whose arenas are small."""
    tiny_store(root, access=KINDS[kind])
    return root


def write(root: Path, start: int, *, count: int = 60) -> None:
    with Store.open(root, "write") as store:
        put_recipes(store, [(start + number, 9000) for number in range(count)])
        store.commit([(b"%d" % start, b"")])


def tear(root: Path) -> None:
    """What a power cut leaves at the end of an open arena."""
    path = sorted((root / "arenas/open").glob("*.arena"))[0]
    with path.open("ab") as file:
        file.write(os.urandom(5000))


def use(root: Path) -> None:
    """Archive, be cut off, recover, be damaged, be repaired, rebuild."""
    write(root, 0)
    tear(root)
    write(root, 1000)
    store = Store.open(root, "write")
    put_recipes(store, [(2000 + number, 9000) for number in range(20)])
    store.abandon()
    write(root, 3000)
    with store_lock(root, alone=True):
        rebuild_index(root, read_header(root), Files())
    flip(next((root / "arenas/sealed").iterdir()), 70_000)
    repair(root, check(root, read_data=True))
    (root / "index/lock.mdb").unlink()
    (root / "lock").unlink()
    write(root, 4000)
    (root / "index/data.mdb").unlink()
    write(root, 5000)


@kinds
@umasks
def test_all_of_a_used_store_has_the_modes_of_its_kind(
    tmp_path: Path, kind: str, umask: int
) -> None:
    (tmp_path / "outer").mkdir()
    with masked(umask):
        root = made(tmp_path / "outer/store", kind)
        assert wrong(root, kind) == {}
        use(root)
    assert wrong(root, kind) == {}
    assert {path.suffix for path in (root / "arenas/open").iterdir()} == {".arena", ".torn"}
    assert {"ventifs.store", "lock", "data.mdb", "lock.mdb", "ID.arena"} <= names(root)


@kinds
def test_what_a_killed_rebuild_leaves_is_of_its_kind(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made(tmp_path / "store", kind)
    write(root, 0)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # nothing is tidied up
    monkeypatch.setattr("ventifs.store.rebuild._put_in_place", lambda *_: None)
    with masked(0o022), store_lock(root, alone=True):
        rebuild_index(root, read_header(root), Files())
    [left] = root.glob("index.*")
    assert (left / "data.mdb").exists()
    assert wrong(root, kind) == {}


@umasks
def test_an_empty_directory_that_was_there_is_closed(tmp_path: Path, umask: int) -> None:
    (tmp_path / "store").mkdir(mode=0o777)
    with masked(umask):
        made(tmp_path / "store", "private")
    assert wrong(tmp_path / "store", "private") == {}


@kinds
def test_what_a_broken_creation_left_becomes_of_the_new_kind(tmp_path: Path, kind: str) -> None:
    root = made(tmp_path / "store", "private")
    (root / "ventifs.store").unlink()
    made(root, kind)
    assert wrong(root, kind) == {}


def test_names_that_are_swapped_meanwhile_lead_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root in a user's directory: a link, a hard link and a FIFO are no part of a store."""
    (tmp_path / "foreign/open").mkdir(parents=True)
    for name in ("foreign/file", "foreign/open/file", "foreign/hard"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)
    (tmp_path / "store/arenas/open").mkdir(parents=True)
    (tmp_path / "store/link").symlink_to(tmp_path / "foreign/file")
    (tmp_path / "store/lock").hardlink_to(tmp_path / "foreign/hard")
    os.mkfifo(tmp_path / "store/fifo")
    step = permissions._set

    def swapping(*arguments: Any) -> None:
        step(*arguments)
        if not (tmp_path / "old").exists():
            (tmp_path / "store/arenas").rename(tmp_path / "old")
            (tmp_path / "store/arenas").symlink_to(tmp_path / "foreign")

    monkeypatch.setattr(permissions, "_set", swapping)
    prepare(tmp_path / "store", permissions.PRIVATE)
    for name in ("foreign/file", "foreign/open/file", "foreign/hard"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644, name
    assert stat.S_IMODE((tmp_path / "foreign/open").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "old/open").stat().st_mode) == 0o700


def test_default_acls_of_the_directory_above_do_not_count(tmp_path: Path) -> None:
    done = subprocess.run(
        ["setfacl", "-d", "-m", "u:65534:rwx,g::rwx,o::rx", tmp_path],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("no ACLs here")
    root = made(tmp_path / "store", "private")
    use(root)
    assert wrong(root, "private") == {}
    for path in (root, *root.rglob("*")):
        assert [name for name in os.listxattr(path) if "acl" in name] == []


@as_root
def test_what_root_makes_in_a_users_store_is_the_users(tmp_path: Path) -> None:
    root = made(tmp_path / "store", "private")
    for path in (root, *root.rglob("*")):
        os.chown(path, 1234, GROUP)
    use(root)
    assert wrong(root, "private") == {}


def test_a_file_system_without_unnamed_files_has_the_same_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permissions, "_unnamed", lambda _: None)
    with masked(0o077):
        use(made(tmp_path / "store", "private"))
    assert wrong(tmp_path / "store", "private") == {}


def test_a_new_file_replaces_nothing_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError):
            create_file(tmp_path / name)
        with pytest.raises(FileExistsError):
            make_directory(tmp_path / name)
    assert (tmp_path / "there").read_bytes() == b"kept"
    assert not (tmp_path / "elsewhere").exists()


@as_root
@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_without_proc_has_the_same_modes(home: Path, kind: str) -> None:
    """As in a chroot: the tmpfs over /proc is in a mount namespace of its own."""
    program = (
        "import os, sys; from pathlib import Path; "
        "from ventifs.store import Store; from ventifs.store.permissions import Access; "
        "os.umask(0o077); root = Path(sys.argv[1]); mode, gid = map(int, sys.argv[2:]); "
        "Store.create(root, access=Access(mode, gid)); store = Store.open(root, 'write'); "
        "store.put(b'block'); store.commit([(b'key', b'')]); store.close(); "
        "assert not os.path.exists('/proc/self')"
    )
    access = KINDS[kind]
    gid = os.getegid() if access.gid is None else access.gid
    subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount -t tmpfs none /proc && exec "$@"',
            "-",
            sys.executable,
            "-c",
            program,
            home / "store",
            str(access.mode),
            str(gid),
        ],
        check=True,
    )
    assert wrong(home / "store", kind) == {}


# --- other users -----------------------------------------------------------------------------


def as_user(uid: int, gid: int, root: Path, action: str) -> str:
    """What comes of a user's doing something to a store: nothing, or the message."""
    read, sending = os.pipe()
    child = os.fork()
    if child == 0:
        text = "it did not even begin"
        try:
            os.setgroups([gid])
            os.setgid(uid)
            os.setuid(uid)
            os.umask(0o077)
            ACTIONS[action](root)
            text = ""
        except BaseException as error:
            text = str(error) or repr(error)
        finally:
            os.write(sending, text.encode())
            os._exit(0)
    os.close(sending)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as file:
        return file.read().decode()


def _read(root: Path) -> None:
    with Store.open(root) as store:
        assert store.records()
        store.stats()


def _write(root: Path) -> None:
    write(root, os.getuid() * 1000)


ACTIONS: dict[str, Callable[[Path], None]] = {"read": _read, "write": _write, "use": use}


@as_root
def test_a_shared_store_is_written_by_every_member_and_reached_by_nobody_else(home: Path) -> None:
    root = made(home / "store", "shared")
    for uid in (2001, 2002, 2003, 2001):
        assert as_user(uid, GROUP, root, "write") == ""
        assert as_user(2004, GROUP, root, "read") == ""
    for path in root.rglob("*"):
        status = path.stat()
        assert status.st_gid == GROUP, path
        assert stat.S_IMODE(status.st_mode) == (0o2770 if path.is_dir() else 0o660), path
    assert "permission denied" in as_user(2005, 2005, root, "read")


def member(root: Path, uid: int, hook: str) -> tuple[int, int, int]:
    """A member of the group, who makes a directory and stops before a step of that.

    Returns:
        The process, what says that it has stopped, and what lets it go on.
    """
    stopped, stopping = os.pipe()
    waiting, going = os.pipe()
    child = os.fork()
    if child:
        os.close(stopping)
        os.close(waiting)
        return child, stopped, going
    code = 1
    try:
        os.close(going)
        step = getattr(permissions, hook)

        def paused(*arguments: object) -> object:
            os.write(stopping, b"!")
            os.read(waiting, 1)
            return step(*arguments)

        setattr(permissions, hook, paused)
        os.setgroups([GROUP])
        os.setgid(GROUP)
        os.setuid(uid)
        os.umask(0o077)
        _make(root)
        code = 0
    finally:
        os._exit(code)


def _make(root: Path) -> None:
    make_directory(root / "statcache")
    os.close(create_file(root / f"statcache/of{os.getuid()}"))


@as_root
@pytest.mark.parametrize("hook", ["_set", "_rename_new"])
def test_a_directory_is_usable_by_all_members_as_soon_as_it_is_there(home: Path, hook: str) -> None:
    """Two make it at once; each stops in between, while the other does all of it."""
    root = made(home / "store", "shared")
    ACTIONS["make"] = _make
    child, stopped, going = member(root, 2001, hook)
    assert os.read(stopped, 1) == b"!"
    assert as_user(2002, GROUP, root, "make") == ""
    os.write(going, b"!!")
    assert os.waitpid(child, 0)[1] == 0
    assert as_user(2003, GROUP, root, "make") == ""
    assert sorted(os.listdir(root / "statcache")) == ["of2001", "of2002", "of2003"]
    assert stat.S_IMODE((root / "statcache").stat().st_mode) == 0o2770
    assert [path for path in root.iterdir() if path.name.startswith(".")] == []


@as_root
@pytest.mark.parametrize("hook", ["_set", "_rename_new"])
def test_a_directory_whose_maker_was_killed_locks_nobody_out(home: Path, hook: str) -> None:
    root = made(home / "store", "shared")
    ACTIONS["make"] = _make
    child, stopped, going = member(root, 2001, hook)
    assert os.read(stopped, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(going)
    assert as_user(2002, GROUP, root, "make") == ""
    assert as_user(2001, GROUP, root, "make") == ""
    assert stat.S_IMODE((root / "statcache").stat().st_mode) == 0o2770
    assert [path for path in root.iterdir() if path.name.startswith(".")] == []


@as_root
def test_a_directory_that_was_left_closed_is_opened_by_its_owner(home: Path) -> None:
    """As older programs left it when they were killed; root mends it for the owner."""
    root = made(home / "store", "shared")
    ACTIONS["make"] = _make
    for uid in (2001, 0):
        (root / "statcache").mkdir()
        os.chown(root / "statcache", uid, GROUP)
        (root / "statcache").chmod(0o2700)
        assert "Permission denied" in as_user(2002, GROUP, root, "make")
        assert as_user(uid, GROUP, root, "make") == ""
        assert as_user(2002, GROUP, root, "make") == ""
        shutil.rmtree(root / "statcache")


def test_a_directory_may_be_elsewhere_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o750)
    (tmp_path / "link").symlink_to("elsewhere")
    make_directory(tmp_path / "link")
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o750


@pytest.mark.parametrize("missing", ["function", "flag"])
def test_a_kernel_without_renameat2_makes_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def refused(*_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    monkeypatch.setattr(permissions, "_renameat2", None if missing == "function" else refused)
    root = made(tmp_path / "store", "private")
    assert wrong(root, "private") == {}
    above = os.open(root, os.O_DIRECTORY)
    (root / ".making-0").mkdir()
    with pytest.raises(FileExistsError):
        permissions._name_directory(".making-0", "arenas", above)
    assert not (root / ".making-0").exists()
    os.close(above)


def test_a_creation_that_was_killed_while_it_made_a_directory_is_taken_up(tmp_path: Path) -> None:
    root = made(tmp_path / "store", "private")
    (root / "ventifs.store").unlink()
    for above in (root, root / "arenas"):
        (above / ".making-0123456789abcdef").mkdir()
    made(root, "private")
    assert not list(root.glob(".making*"))


@as_root
def test_readers_read_beside_a_writer_and_write_nothing(home: Path) -> None:
    root = made(home / "store", "readers")
    with Store.open(root, "write") as store:
        store.put(b"a block")
        store.commit([(b"key", b"")])
        assert as_user(2001, GROUP, root, "read") == ""
        assert "permission denied" in as_user(2001, GROUP, root, "write")
        assert "permission denied" in as_user(2002, 2002, root, "read")
    assert wrong(root, "readers") == {}


@as_root
def test_an_owner_who_is_not_in_the_group_keeps_the_kind(home: Path) -> None:
    root = made(home / "store", "readers")
    for path in (root, *root.rglob("*")):
        os.chown(path, 2001, -1)
        path.chmod(stat.S_IMODE(path.stat().st_mode) | (0o2000 if path.is_dir() else 0))
    assert as_user(2001, 2001, root, "write") == ""
    assert as_user(2002, GROUP, root, "read") == ""


@as_root
def test_a_reader_that_cannot_hold_the_lock_is_refused_with_what_mends_it(home: Path) -> None:
    root = made(home / "my store", "private")
    write(root, 0)
    subprocess.run(["chmod", "-R", "a+rX", root], check=True)
    refused = as_user(2001, GROUP, root, "read")
    assert refused.startswith(f"{root}/index/lock.mdb: permission denied")
    command = refused[refused.index("chgrp -R") :].replace("GROUP", str(GROUP), 1)
    subprocess.run(["sh", "-c", command], check=True)
    assert wrong(root, "readers") == {}
    assert as_user(2001, GROUP, root, "read") == ""
    assert "permission denied" in as_user(2002, 2002, root, "read")
    use(root)
    assert wrong(root, "readers") == {}


@as_root
def test_the_commands_of_the_documents_make_an_older_store_one_for_readers(home: Path) -> None:
    """FORMAT.md has them for everybody, SERVING.md for the server's user."""
    package = Path(permissions.__file__).parents[1]
    [command] = re.findall(
        r"^    (mkdir -p STORE.*)$", (package / "store/FORMAT.md").read_text(), re.M
    )
    serving = (package / "serving/SERVING.md").read_text()
    lines = re.findall(r"^    sudo ((?:mkdir|chown|chmod|find) .*)$", serving, re.M)
    assert len(lines) == 5
    for number, text in enumerate([command, " && ".join(lines)]):
        root = made(home / f"store{number}", "private")
        write(root, 0)
        (root / "leases").rmdir()  # as older programs made stores
        subprocess.run(["chmod", "-R", "a+rX", root], check=True)
        mending = text.replace("root:ventifs", f"root:{GROUP}").replace("GROUP", str(GROUP))
        mending = mending.replace("/var/lib/ventifs", str(root)).replace("STORE", str(root))
        if number:
            os.chown(root / "index", 2001, 2001)  # as the server's user once owned it
        subprocess.run(["sh", "-c", mending], check=True)
        assert wrong(root, "readers") == {}
        assert as_user(2001, GROUP, root, "read") == ""


@as_root
def test_an_owner_who_may_not_write_the_lock_is_told_what_mends_it(home: Path) -> None:
    root = made(home / "my store", "private")
    write(root, 0)
    for path in (root, *root.rglob("*")):
        os.chown(path, 2001, 2001)
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    refused = as_user(2001, 2001, root, "read")
    command = refused[refused.index("'") + 1 : -1]
    assert command.startswith("chmod u+w ")
    subprocess.run(["setpriv", "--reuid=2001", "--clear-groups", *shlex.split(command)], check=True)
    assert as_user(2001, 2001, root, "read") == ""


@as_root
def test_a_read_only_mount_is_read_by_who_cannot_hold_the_lock(home: Path) -> None:
    """A bind mount, beside which the same files can be written: they are read without a lock."""
    root = made(home / "store", "private")
    write(root, 0)
    subprocess.run(["chmod", "-R", "a+rX", root], check=True)
    (home / "mounted").mkdir()
    subprocess.run(["mount", "--bind", root, home / "mounted"], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", home / "mounted"], check=True)
        assert "lock.mdb" in as_user(2001, GROUP, root, "read")
        assert as_user(2001, GROUP, home / "mounted", "read") == ""
        assert "read-only" in as_user(0, 0, home / "mounted", "write")
        _read(home / "mounted")
    finally:
        subprocess.run(["umount", home / "mounted"], check=True)


@as_root
def test_a_group_is_given_only_what_is_the_callers_to_give(home: Path) -> None:
    def give(_: Path) -> None:
        permissions.shared(str(GROUP))

    ACTIONS["give"] = give
    assert as_user(2001, GROUP, home, "give") == ""
    refused = as_user(2001, 2002, home, "give")
    assert refused.startswith(f"{GROUP}: you are not in this group")
    assert "name one of yours (2001, 2002)" in refused
    assert permissions.readers("root").gid == 0
    with pytest.raises(VentifsError, match="'no-such-group': there is no such group"):
        permissions.readers("no-such-group")


@as_root
def test_a_directory_of_another_user_becomes_no_store(home: Path) -> None:
    (home / "store").mkdir()
    (home / "store").chmod(0o777)
    ACTIONS["create"] = Store.create
    refused = as_user(2001, 2001, home / "store", "create")
    assert refused.startswith(f"{home}/store: permission denied")
    assert list((home / "store").iterdir()) == []


def test_a_directory_with_anything_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    (tmp_path / "store/file").touch(mode=0o644)
    with pytest.raises(VentifsError, match="not empty"):
        Store.create(tmp_path / "store")
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o755


# --- older stores ----------------------------------------------------------------------------


def older(root: Path, group: str, others: str) -> None:
    """What a store made before modes were looked after is like."""
    subprocess.run(["chmod", "-R", f"g={group},o={others}", root], check=True)


@pytest.mark.parametrize(
    ("group", "others", "who"),
    [
        ("rX", "rX", "every user of this machine"),
        ("rwX", "rX", "every user of this machine"),
        ("rX", "", f"the group {permissions.group_name(os.getegid())}"),
        ("", "X", "every user of this machine"),
    ],
)
def test_an_older_store_that_others_can_read_is_reported_until_it_is_mended(
    home: Path, caplog: pytest.LogCaptureFixture, group: str, others: str, who: str
) -> None:
    root = made(home / "my store", "private")
    write(root, 0)
    older(root, group, others)
    with Store.open(root):
        pass
    assert caplog.messages == []
    write(root, 1000)
    write(root, 2000)
    assert caplog.messages == [exposed(root)]
    assert caplog.messages[0].startswith(f"{root}: {who} can read what is archived here; 'chmod")
    command = exposed(root).partition("; '")[2].removesuffix("' ends that")
    subprocess.run(["sh", "-c", command], check=True)
    caplog.clear()
    assert exposed(root) == ""
    use(root)
    assert wrong(root, "private") == {}
    assert [text for text in caplog.messages if "can read" in text] == []


@as_root
@pytest.mark.parametrize("kind", ["shared", "readers"])
def test_a_groups_store_that_all_can_read_stays_the_groups(home: Path, kind: str) -> None:
    root = made(home / "store", kind)
    write(root, 0)
    assert exposed(root) == ""
    subprocess.run(["chmod", "-R", "o+rX", root], check=True)
    command = exposed(root).partition("; '")[2].removesuffix("' ends that")
    subprocess.run(["sh", "-c", command], check=True)
    assert exposed(root) == ""
    assert wrong(root, kind) == {}


@pytest.mark.parametrize(
    ("above", "who"),
    [
        (0o755, "every user of this machine"),
        (0o711, "every user of this machine"),
        (0o750, "every user who can reach it"),
        (0o700, ""),
        (0o744, ""),
    ],
)
def test_a_store_below_a_closed_directory_is_not_exposed(home: Path, above: int, who: str) -> None:
    """Also by a link, which is open itself."""
    root = made(home / "closed/deep/store", "private")
    (home / "closed/deep").chmod(0o755)
    older(root, "rX", "rX")
    (home / "closed").chmod(above)
    (home / "link").symlink_to(root)
    for path in (root, home / "link"):
        assert exposed(path).startswith(f"{path}: {who} can read" if who else ""), path
        assert bool(exposed(path)) == bool(who)


@as_root
def test_a_third_users_directory_closes_nothing(home: Path) -> None:
    """Its owner can open it, and goes through it."""
    root = made(home / "closed/store", "private")
    older(root, "rX", "rX")
    (home / "closed").chmod(0o700)
    assert exposed(root) == ""
    os.chown(home / "closed", 2001, 2001)
    assert "can read what is archived here" in exposed(root)


def commands_as(uid: int, text: str) -> None:
    """Run a command of a message as its owner, who is in the store's group."""
    subprocess.run(
        [
            "setpriv",
            f"--reuid={uid}",
            f"--regid={GROUP}",
            f"--groups={GROUP}",
            "sh",
            "-ec",
            text,
        ],
        check=True,
    )


def quoted(message: str) -> str:
    """The command at the end of a message."""
    assert message.endswith("'")
    return message[message.index("'find ") + 1 : -1]


@as_root
@pytest.mark.parametrize("kind", ["shared", "readers"])
def test_files_that_an_older_program_left_are_named_with_what_mends_them(
    home: Path, kind: str
) -> None:
    """It made them by the umask; members are locked out, and `check` notes it."""
    root = made(home / "my store", kind)
    write(root, 0)
    (root / "statcache").mkdir()
    for path in root.rglob("*"):
        os.chown(path, 2001, GROUP)
        path.chmod(0o2755 if path.is_dir() else 0o600 if kind == "readers" else 0o644)
    os.chown(root, 2001, GROUP)
    root.chmod(KINDS[kind].mode)
    for path in (root / "lock", root / "index/lock.mdb"):
        path.chmod(0o660)
    action = "read" if kind == "readers" else "write"
    if action == "write":
        (root / "lock").chmod(0o644)
    refused = as_user(2002, GROUP, root, action)
    assert "permission denied; " in refused
    assert "is closed to the store's group; 2001 opens it with 'find " in refused
    noted = odd_line(root, odd_modes(root))
    assert "its owner 2001 sets that with 'find " in noted
    commands_as(2001, quoted(refused))
    assert odd_modes(root) == []
    assert wrong(root, kind) == {}
    assert odd_line(root, odd_modes(root)) == ""
    assert as_user(2002, GROUP, root, action) == ""
    (root / "arenas/open").chmod(0o2700)
    commands_as(2001, quoted(odd_line(root, odd_modes(root))))
    assert odd_modes(root) == []


@as_root
def test_a_closed_directory_is_named(home: Path) -> None:
    """What a kill left of an older program's directory."""
    root = made(home / "store", "shared")
    write(root, 0)
    os.chown(root / "arenas/open", 2001, GROUP)
    (root / "arenas/open").chmod(0o2700)
    [odd] = odd_modes(root)
    assert (odd.path, odd.mode, odd.expected) == ("arenas/open", 0o2700, 0o2770)
    refused = as_user(2002, GROUP, root, "write")
    assert "open is closed to the store's group; 2001 opens it with" in refused
    commands_as(2001, quoted(refused))
    assert as_user(2002, GROUP, root, "write") == ""


def test_a_file_system_that_shows_all_files_as_executable_is_not_noted(tmp_path: Path) -> None:
    root = made(tmp_path / "store", "private")
    (root / "lock").chmod(0o700)
    assert odd_modes(root) == []
    (root / "lock").chmod(0o640)
    assert [odd.path for odd in odd_modes(root)] == ["lock"]


@as_root
@pytest.mark.parametrize("kind", ["shared", "readers"])
def test_a_member_that_cannot_hold_the_lock_is_refused_with_what_mends_it(
    home: Path, kind: str
) -> None:
    """The store stays of its kind."""
    root = made(home / "my store", kind)
    write(root, 0)
    lock = root / "index/lock.mdb"
    lock.chmod(0o640)
    refused = as_user(2001, GROUP, root, "read")
    assert "chmod -R" not in refused
    subprocess.run(["sh", "-c", refused[refused.index("chmod g+w") :]], check=True)
    assert as_user(2001, GROUP, root, "read") == ""
    assert wrong(root, kind) == {}
    os.chown(lock, -1, 0)
    lock.chmod(0o600)
    refused = as_user(2001, GROUP, root, "read")
    subprocess.run(["sh", "-c", refused[refused.index("chgrp") :]], check=True)
    assert as_user(2001, GROUP, root, "read") == ""
    lock.chmod(0o640)
    subprocess.run(["chmod", "-R", "o+rX", root], check=True)
    assert "is for the group" in as_user(2003, 2003, root, "read")


@as_root
@pytest.mark.parametrize("kind", ["private", "readers"])
def test_a_missing_lock_is_made_by_a_command_of_the_owner(home: Path, kind: str) -> None:
    root = made(home / "my store", kind)
    write(root, 0)
    if kind == "private":
        subprocess.run(["chmod", "-R", "a+rX", root], check=True)
    (root / "index/lock.mdb").unlink()
    refused = as_user(2001, GROUP, root, "read")
    command = refused[refused.index("'ventifs ") + 1 : refused.index(" once, ") - 1]
    program = Path(sys.executable).parent
    subprocess.run(["sh", "-c", f"PATH={program}:$PATH; {command}"], check=True)
    if kind == "private":
        text = refused[refused.index("chgrp -R") :].replace("GROUP", str(GROUP), 1)
        subprocess.run(["sh", "-c", text], check=True)
    assert as_user(2001, GROUP, root, "read") == ""
    assert wrong(root, "readers") == {}


@as_root
def test_a_new_file_in_an_older_store_is_as_its_neighbours(tmp_path: Path) -> None:
    root = made(tmp_path / "store", "private")
    older(root, "rX", "rX")
    with masked(0o077):
        write(root, 0)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*.arena")}
    assert modes == {0o644}
    assert Access(0o700) == permissions.PRIVATE
    prepare(root, KINDS["readers"])
    assert wrong(root, "readers") == {}


def test_an_arena_has_no_name_before_it_has_its_mode(tmp_path: Path) -> None:
    """So no other writer or reader of a group meets it closed."""
    root = made(tmp_path / "store", "private")
    seen: list[list[str]] = []
    change = permissions._change_mode

    def looked(fd: int, mode: int) -> None:
        seen.append(os.listdir(root / "arenas/open"))
        change(fd, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permissions, "_change_mode", looked)
        with Store.open(root, "write") as store:
            Appender.create(store._arenas, Files())
    assert seen
    assert not any(seen)

"""--access=mode: what each user may reach, whatever way the server leads him there."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.support import processes
from tests.support.clock import Clock
from tests.support.driving import Driver
from tests.support.forging import commit_version, directory, directory_of, file
from tests.support.permissions import NO_ID, acl_of, odd_tree, write_readable
from tests.support.stores import new_store
from ventifs.errors import NotStored
from ventifs.ninep.session.fids import Fid, Fids
from ventifs.store import Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import Block, Content, Entry, Inline, Listed, Symlink, Tree
from ventifs.tree.versions.catalog import decode_version, tree_score, version_records
from ventifs.vfs.access import groups as accounts
from ventifs.vfs.access.groups import SIZE_MAX, AccountBook
from ventifs.vfs.access.guard import GuardedDirectory, GuardedFile, GuardedFilesystem, Squash
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split
from ventifs.vfs.interface import DIRECTORY, File, Filesystem, Refused, User
from ventifs.vfs.memory_budget import GUARDED_DIRECTORY_BYTES

SPLIT = Split.of(8 << 20)
ANNA, BEN, STRANGER, ROOT, NUMBERLESS = (
    User(b"anna", 1000),
    User(b"", 1001),
    User(b"", 7777),
    User(b"root", 0),
    User(b"root"),
)
PASSWD = b"root:x:0:0::/:\nanna:x:1000:1000::/:\nben:x:1001:100::/:\n"
GROUP = b"adm:x:4:anna\nusers:x:100:\n"


Pair = tuple[bytes, bytes]


def owned(entry: Entry, mode: int, uid: int = 0, gid: int = 0, *pairs: Pair) -> Entry:
    return msgspec.structs.replace(
        entry,
        mode=entry.mode & ~0o7777 | mode,
        uid=uid,
        gid=gid,
        xattrs=Listed(pairs) if pairs else entry.xattrs,
    )


def text(name: bytes, mode: int, uid: int = 0, gid: int = 0, *pairs: Pair) -> Entry:
    return owned(file(name, Inline(b"text of " + name)), mode, uid, gid, *pairs)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        yield opened


def version(
    store: Store,
    name: str = "web",
    *,
    passwd: bytes = PASSWD,
    group: bytes = GROUP,
    accounts: list[Entry] | None = None,
    time_ns: int = 0,
) -> None:
    writer = ContentWriter(store)
    if accounts is None:
        accounts = [
            file(b"group", writer.write_whole(group)),
            file(b"passwd", writer.write_whole(passwd)),
        ]
    listed = acl_of([(1, 6, NO_ID), (2, 4, 1001), (4, 0, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID)])
    home = directory(store, b"anna", [text(b"notes", 0o600, 1000), text(b"open", 0o644, 1000)])
    deep = directory(store, b"deep", [text(b"file", 0o644)])
    root = directory(
        store,
        b"",
        [
            owned(home, 0o700, 1000, 1000),
            directory(store, b"etc", accounts),
            owned(directory(store, b"listed", [text(b"file", 0o644)]), 0o744),
            text(b"log", 0o640, 0, 4),
            owned(directory(store, b"passed", [text(b"file", 0o644)]), 0o711),
            text(b"shadow", 0o640, 0, 0),
            text(
                b"shared",
                0o640,
                0,
                4,
                (b"system.posix_acl_access", listed),
                (b"trusted.t", b"t"),
                (b"user.u", b"u"),
            ),
            owned(directory(store, b"vault", [owned(deep, 0o755)]), 0o700),
            text(b"world", 0o644, 0, 0, (b"trusted.t", b"t"), (b"user.u", b"u")),
        ],
    )
    commit_version(store, root, name, time_ns)


def guarded(store: Store, squash: Squash = Squash.NONE) -> GuardedFilesystem:
    return GuardedFilesystem(ArchiveFilesystem(store, SPLIT, clock=Clock()), squash=squash)


def outcome(operation: Callable[[], object]) -> int:
    """0, or the errno of a refusal."""
    try:
        Driver()(operation)
    except Refused as refused:
        return refused.errno
    return 0


def readable(files: Filesystem, user: User, aname: bytes = b"web@latest") -> set[bytes]:
    """All files that a user can read, walking from an attach."""
    drive = Driver()
    found: set[bytes] = set()
    accounts = (b"etc/passwd", b"etc/group")

    def go(at: File, path: bytes) -> None:
        for name, child in drive.entries(at):
            below = path + b"/" + name if path else name
            walked = drive.walk(at, name)
            assert walked.identity == child.identity
            try:
                if walked.identity.kind == DIRECTORY:
                    go(walked, below)
                else:
                    drive.content(walked)
                    found.add(below)
            except Refused:
                assert outcome(lambda at=walked: at.open(0)) == errno.EACCES  # type: ignore[misc]

    go(drive.attach(files, aname, user), b"")
    return {path for path in found if not path.endswith(accounts)}


@pytest.mark.parametrize(
    ("user", "files"),
    [
        (ANNA, {b"anna/notes", b"anna/open", b"log", b"world"}),
        (BEN, {b"shared", b"world"}),
        (STRANGER, {b"world"}),
        (NUMBERLESS, {b"world"}),
        (User(b"", 65534), {b"world"}),
        (
            ROOT,
            {
                b"anna/notes",
                b"anna/open",
                b"listed/file",
                b"log",
                b"passed/file",
                b"shadow",
                b"shared",
                b"vault/deep/file",
                b"world",
            },
        ),
    ],
    ids=["anna", "ben", "stranger", "numberless", "nobody", "root"],
)
def test_each_user_reads_what_modes_and_lists_give(
    store: Store, user: User, files: set[bytes]
) -> None:
    version(store)
    assert readable(guarded(store), user) == files
    # The same by any other way to the version.
    assert readable(guarded(store), user, b"web") == {
        way + name for name in files for way in (b"1970-01-01T00:00:00Z/", b"latest/")
    }


def test_a_directory_that_may_only_be_passed_is_passed_and_not_listed(store: Store) -> None:
    version(store)
    drive, files = Driver(), guarded(store)
    root = drive.attach(files, b"web@latest", STRANGER)
    passed = drive.walk(root, b"passed")
    assert drive.content(drive.walk(passed, b"file")) == b"text of file"
    assert outcome(lambda: passed.open(0)) == errno.EACCES
    assert outcome(lambda: drive.walk(root, b"listed/file")) == errno.EACCES
    assert outcome(lambda: drive.walk(root, b"listed").open(0)) == errno.EACCES
    assert outcome(lambda: drive.walk(root, b"vault/nosuch")) == errno.EACCES  # and not ENOENT
    assert outcome(lambda: drive.walk(root, b"vault/..")) == errno.EACCES
    assert drive(drive.walk(root, b"shadow").attributes).mode & 0o777 == 0o640
    assert outcome(lambda: drive.walk(root, b"world/x")) == errno.ENOTDIR
    assert drive.walk(root, b"passed/..").identity == root.identity


def test_an_attach_below_needs_the_way_there(store: Store) -> None:
    version(store)
    files, drive = guarded(store), Driver()
    assert outcome(lambda: files.attach(STRANGER, b"web@latest:/vault/deep")) == errno.EACCES
    assert outcome(lambda: files.attach(ANNA, b"web@latest:/vault")) == 0
    assert drive.names(drive.attach(files, b"web@latest:/vault/deep", ROOT)) == [b"file"]
    assert drive.names(drive.attach(files, b"web@latest:/anna", ANNA)) == [b"notes", b"open"]
    sealed = drive.attach(files, b"web@latest:/vault/deep", NUMBERLESS)
    assert drive(sealed.attributes).mode == 0o40755  # made up
    for refused in (
        lambda: sealed.open(0),
        lambda: sealed.walk(b"file"),
        sealed.xattr_names,
        lambda: sealed.walk(b".."),
    ):
        assert outcome(refused) == errno.EACCES
    vault = drive.attach(files, b"web@latest:/vault", NUMBERLESS)
    assert drive(vault.attributes).mode & 0o777 == 0o700
    assert outcome(lambda: vault.walk(b"deep")) == errno.EACCES


BEHIND = [
    b"vault",
    b"vault/deep",
    b"vault/deep/file",
    b"vault/nope",
    b"vault/link",
    b"vault/deep/nope/x",
    b"vault/loop/x",
    b"vault/..",
]


def hidden(store: Store, mode: int) -> None:
    """A version with a closed directory that has one of everything."""
    link = msgspec.structs.replace(
        file(b"link", Inline(b"")), mode=0o120777, detail=Symlink(b"deep")
    )
    below = [directory(store, b"deep", [text(b"file", 0o644)]), link]
    closed = owned(directory(store, b"vault", below), mode)
    commit_version(store, directory(store, b"", [closed]), "web")


@pytest.mark.parametrize("user", [STRANGER, User(b"", 65534), NUMBERLESS], ids=str)
@pytest.mark.parametrize("squash", [Squash.NONE, Squash.ALL])
@pytest.mark.parametrize("again", [False, True], ids=["first", "kept"])
def test_an_attach_says_nothing_of_what_is_behind_a_closed_directory(
    store: Store, user: User, squash: Squash, again: bool
) -> None:
    """`again`: root was there before, so that the server keeps what root attached to."""
    hidden(store, 0o700)
    archive = ArchiveFilesystem(store, SPLIT)
    if again:
        for path in BEHIND:
            outcome(lambda path=path: GuardedFilesystem(archive).attach(ROOT, b"web:/" + path))  # type: ignore[misc]
    files = GuardedFilesystem(archive, squash=squash).session()
    assert outcome(lambda: files.attach(user, b"web:/" + BEHIND[0])) == 0
    drive = Driver()
    for path in BEHIND[1:]:
        if user == NUMBERLESS and squash is Squash.NONE:
            root = drive.attach(files, b"web:/" + path, user)
            assert root.identity._replace(number=0) == (0x80, 1, 0)
            assert drive(root.attributes).mode == 0o40755
            for refused in (lambda at=root: at.walk(b".."), lambda at=root: at.open(0)):
                assert outcome(refused) == errno.EACCES
        else:
            assert outcome(partial(files.attach, user, b"web:/" + path)) == errno.EACCES
    assert outcome(lambda: files.attach(user, b"web:/nope/x")) == errno.ENOENT


def test_an_attach_tells_those_who_may_look(store: Store) -> None:
    hidden(store, 0o711)
    files = guarded(store)
    told = [outcome(lambda path=path: files.attach(STRANGER, b"web:/" + path)) for path in BEHIND]  # type: ignore[misc]
    assert told == [
        0,
        0,
        errno.ENOTDIR,
        errno.ENOENT,
        errno.ELOOP,
        errno.ENOENT,
        errno.ENOENT,
        errno.ENOENT,
    ]


def test_damage_behind_a_closed_directory_is_not_reported(store: Store) -> None:
    """Or a client could tell what is damaged from what is sound."""
    lost = Tree(bytes(31) + b"x", 3)
    closed = owned(directory_of(b"vault", lost, 3, 0), 0o700)
    commit_version(store, directory(store, b"", [closed]), "web")
    files = guarded(store)
    assert outcome(lambda: files.attach(STRANGER, b"web:/vault/deep/x")) == errno.EACCES
    with pytest.raises(NotStored):
        Driver()(files.attach, ROOT, b"web:/vault/deep/x")


def test_a_name_that_a_peer_may_not_reach_is_as_one_that_is_not_there(store: Store) -> None:
    hidden(store, 0o755)
    files = ArchiveFilesystem(store, SPLIT, scores=True).view(lambda name: name == "other")
    score = decoded_score(store)
    drive = Driver()
    for name in (b"web", b"nope"):
        for form in (
            b"%s",
            b"%s@latest",
            b"%s:/vault",
            b"%s:/nope",
            b"%s@1970:/vault/link/x",
            b"%s:/" + 5000 * b"x",
        ):
            assert outcome(lambda: files.attach(ROOT, form % name)) == errno.ENOENT  # noqa: B023
        assert outcome(lambda: drive.walk(drive.attach(files, b""), name)) == errno.ENOENT  # noqa: B023
    for wanted in (score, b"0" * 64):
        assert outcome(lambda: files.attach(ROOT, b"score:" + wanted + b":/vault/x")) == 2  # noqa: B023
        assert outcome(lambda: drive.walk(drive.attach(files, b"score"), wanted)) == errno.ENOENT  # noqa: B023


def decoded_score(store: Store) -> bytes:
    [version] = [decode_version(record) for record in version_records(store)]
    return tree_score(version.root).hex().encode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("seed", range(3))
def test_nobody_reads_what_the_kernel_lets_it_read(store: Store, seed: int) -> None:
    """A real tree, archived; nobody is a process with and without its groups."""
    with tempfile.TemporaryDirectory() as held:
        top, result = Path(held, "top"), Path(held, "result")
        Path(held).chmod(0o755)
        assert processes.run(odd_tree, top, seed) == 0
        assert processes.run(write_readable, top, result) == 0
        expected = {name.encode() for name in json.loads(result.read_text())}
        archive(store, DirectorySource(top), "odd")
    expected -= {b"etc/passwd", b"etc/group"}
    assert expected
    for squash, user in (
        (Squash.ALL, ROOT),
        (Squash.ROOT, ROOT),
        (Squash.NONE, NUMBERLESS),
        (Squash.NONE, User(b"", 65534)),
    ):
        assert reached(guarded(store, squash), user, b"odd@latest", expected) == expected


def reached(files: Filesystem, user: User, aname: bytes, more: set[bytes]) -> set[bytes]:
    """All files that a user can read: by walking along listings, and along the paths in `more`."""
    found = set()
    for path in readable_or_closed(files, user, aname) | more:
        with suppress(Refused):
            drive = Driver()
            drive.content(drive.walk(drive.attach(files, aname, user), path))
            found.add(path)
    return found


def readable_or_closed(files: Filesystem, user: User, aname: bytes) -> set[bytes]:
    drive = Driver()
    found: set[bytes] = set()

    def go(at: File, path: bytes) -> None:
        with suppress(Refused):
            for name, child in drive.entries(at):
                found.add(path + name)
                if child.identity.kind == DIRECTORY:
                    go(drive.walk(at, name), path + name + b"/")

    go(drive.attach(files, aname, user), b"")
    return {path for path in found if not path.startswith(b"etc")}


@pytest.mark.parametrize(
    ("squash", "root_reads", "anna_reads"),
    [
        (Squash.NONE, True, True),
        (Squash.ROOT, False, True),
        (Squash.ALL, False, False),
    ],
)
def test_squash(store: Store, squash: Squash, root_reads: bool, anna_reads: bool) -> None:
    version(store)
    files = guarded(store, squash)
    assert (b"shadow" in readable(files, ROOT)) is root_reads
    assert (b"log" in readable(files, ANNA)) is anna_reads
    assert b"world" in readable(files, STRANGER)


def test_squashing_all_lets_nobody_attach_where_nobody_may_go(store: Store) -> None:
    version(store)
    files = guarded(store, Squash.ALL)
    for user in (ROOT, ANNA, NUMBERLESS):
        assert outcome(lambda user=user: files.attach(user, b"web:/vault/deep")) == errno.EACCES  # type: ignore[misc]
        assert outcome(lambda user=user: files.attach(user, b"web:/passed")) == 0  # type: ignore[misc]


def test_groups_are_those_of_each_version(store: Store) -> None:
    version(store, "web", group=GROUP, time_ns=0)
    version(store, "web", group=b"adm:x:4:ben\n", time_ns=10**9)
    drive, files = Driver(), guarded(store)
    top = drive.attach(files, b"web", ANNA)
    assert drive.content(drive.walk(top, b"1970-01-01T00:00:00Z/log")) == b"text of log"
    assert outcome(lambda: drive.walk(top, b"latest/log").open(0)) == errno.EACCES
    back = drive.walk(top, b"latest/../1970-01-01T00:00:00Z/log")
    assert drive.content(back) == b"text of log"
    assert b"log" in readable(files, BEN)


def test_attributes_of_root_and_of_readers(store: Store) -> None:
    version(store)
    drive, files = Driver(), guarded(store)

    def of(user: User, name: bytes) -> File:
        return drive.walk(drive.attach(files, b"web@latest", user), name)

    assert of(ROOT, b"world").xattr(b"trusted.t") == b"t"
    assert of(ANNA, b"world").xattr_names() == [b"user.u"]
    assert of(ANNA, b"world").xattr(b"user.u") == b"u"
    assert outcome(lambda: of(ANNA, b"world").xattr(b"trusted.t")) == errno.ENODATA
    assert outcome(lambda: of(STRANGER, b"shared").xattr(b"user.u")) == errno.EACCES
    assert of(STRANGER, b"shared").xattr(b"system.posix_acl_access")


def test_nothing_is_written(store: Store) -> None:
    version(store)
    drive, files = Driver(), guarded(store)
    root = drive.attach(files, b"web@latest", ROOT)
    world = drive.walk(root, b"world")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
        assert outcome(lambda flags=flags: world.open(flags)) == errno.EROFS  # type: ignore[misc]
    assert outcome(lambda: root.unlink(b"world", directory=False)) == errno.EROFS
    assert outcome(lambda: root.mkdir(b"x", 0o755, 0)) == errno.EROFS


# --- accounts of a tree -----------------------------------------------------------------------


def accounts_of(store: Store, entries: list[Entry]) -> set[bytes]:
    version(store, accounts=entries)
    return readable(guarded(store), ANNA)


def test_without_accounts_users_have_no_groups(store: Store) -> None:
    assert accounts_of(store, []) == {b"anna/notes", b"anna/open", b"world"}


def test_accounts_are_never_read_through_a_symbolic_link(store: Store) -> None:
    link = msgspec.structs.replace(
        file(b"passwd", Inline(b"x")), mode=0o120777, detail=Symlink(b"../passwd")
    )
    group = file(b"group", ContentWriter(store).write_whole(GROUP))
    version(store, accounts=[group, link])
    drive = Driver()
    root = drive.attach(guarded(store), b"web@latest", ANNA)
    assert outcome(lambda: drive.walk(root, b"log").open(0)) == errno.EACCES


def test_accounts_that_cannot_be_read_let_nobody_in_but_root(store: Store) -> None:
    lost: Content = Block(bytes(31) + b"x", 100)
    version(store, accounts=[file(b"group", Inline(b"x")), file(b"passwd", lost)])
    drive, files = Driver(), guarded(store)
    with pytest.raises(NotStored):
        drive.attach(files, b"web@latest", ANNA)
    assert drive.names(drive.attach(files, b"web@latest", ROOT))
    # Nobody may then be in any group, and reads what no group could be kept from.
    root = drive.attach(files, b"web@latest", NUMBERLESS)
    assert drive.content(drive.walk(root, b"world")) == b"text of world"
    assert outcome(lambda: drive.walk(root, b"listed/file")) == errno.EACCES
    assert outcome(lambda: drive.walk(root, b"passed").open(0)) == errno.EACCES


def test_accounts_of_any_size_are_refused_beyond_a_megabyte(store: Store) -> None:
    writer = ContentWriter(store)
    large = writer.write_whole(PASSWD + b"#" * SIZE_MAX)
    version(store, accounts=[file(b"group", Inline(b"x")), file(b"passwd", large)])
    files = guarded(store)
    assert outcome(lambda: files.attach(ANNA, b"web@latest")) == errno.EIO
    assert outcome(lambda: files.attach(ROOT, b"web@latest")) == 0


def test_to_list_versions_reads_nobodys_accounts(store: Store) -> None:
    for number in range(3):
        version(store, time_ns=number * 10**9)
    drive, files = Driver(), guarded(store)
    for user in (STRANGER, NUMBERLESS):
        assert len(drive.names(drive.attach(files, b"web", user))) == 4
    assert {load.key for load in drive.loads} == {("catalog",)}


def test_accounts_are_read_once_a_version(store: Store) -> None:
    version(store)
    drive, files = Driver(), guarded(store)
    drive.attach(files, b"web@latest", ANNA)
    before = len(drive.loads)
    for user in (BEN, STRANGER, ANNA):
        drive.attach(files, b"web@latest", user)
        drive.walk(drive.attach(files, b"", user), b"web/latest")
    assert len(drive.loads) == before


def identity(file: File) -> object:
    assert isinstance(file, GuardedFile)
    return file._who


@pytest.mark.parametrize("user", [ANNA, STRANGER, NUMBERLESS])
def test_a_user_of_a_tree_is_one_object_for_all_fids(store: Store, user: User) -> None:
    names = b"".join(b"g%d:x:%d:anna,nobody\n" % (gid, gid) for gid in range(1000, 2000))
    version(store, group=names)
    drive, files = Driver(), guarded(store)
    roots = [drive.attach(files, b"web@latest", user)]
    roots += [drive.attach(files.session(), b"web", user), drive.attach(files, b"", user)]
    held = [roots[0], drive.walk(roots[1], b"latest"), drive.walk(roots[2], b"web/latest")]
    held += [drive.attach(files, b"web@latest", user), drive.walk(roots[0], b"world")]
    assert len({id(identity(file)) for file in held}) == 1
    files.accounts._known.clear()  # as when too many other trees came
    assert identity(drive.attach(files, b"web@latest", user)) is identity(roots[0])


def nested(store: Store, depth: int, closed: int = -1) -> None:
    """A version of directories in each other, of which one may be closed."""
    deep = text(b"file", 0o644)
    for number in reversed(range(depth)):
        deep = owned(directory(store, b"d", [deep]), 0o700 if number == closed else 0o755)
    accounts = directory(store, b"etc", [file(b"group", ContentWriter(store).write_whole(GROUP))])
    commit_version(store, directory(store, b"", [deep, accounts]), "web")


@pytest.mark.parametrize("user", [ROOT, ANNA, NUMBERLESS])
@pytest.mark.parametrize("cache", [1, 8 << 20])
def test_an_attach_to_a_deep_path_takes_few_loads(store: Store, user: User, cache: int) -> None:
    """However little memory there is for what they bring."""
    nested(store, 500)
    drive = Driver()
    files = GuardedFilesystem(ArchiveFilesystem(store, Split.of(cache), clock=Clock()))
    root = drive.attach(files, b"web:/" + b"d/" * 500, user)
    assert drive.names(root) == [b"file"]
    assert (
        len([load for load in drive.loads if isinstance(load.key, tuple) and load.key[0] == "path"])
        == 1
    )
    assert len(drive.loads) < 8
    drive.loads.clear()
    assert outcome(lambda: drive.attach(files, b"web:/" + b"d/" * 499 + b"x/y", user)) == 2
    assert len(drive.loads) < 4


def test_an_attach_behind_a_closed_directory_takes_as_many_loads_as_one_to_nothing(
    store: Store,
) -> None:
    nested(store, 100, closed=50)
    keys = []
    for path in (b"d/" * 90, b"d/" * 60 + b"nope", b"d/" * 100 + b"file/x"):
        drive, files = Driver(), guarded(store)
        with pytest.raises(Refused) as refused:
            drive.attach(files, b"web:/" + path, ANNA)
        assert refused.value.errno == errno.EACCES
        keys.append([load.key[0] for load in drive.loads if isinstance(load.key, tuple)])
    assert keys[0] == keys[1] == keys[2]


def test_a_deep_root_is_charged_for_its_way_and_not_kept(store: Store) -> None:
    nested(store, 100)
    archive = ArchiveFilesystem(store, SPLIT, clock=Clock())
    drive = Driver()
    near, far = (drive.attach(archive, b"web:/" + b"d/" * depth) for depth in (32, 33))
    assert drive.attach(archive, b"web:/" + b"d/" * 32) is near
    assert drive.attach(archive, b"web:/" + b"d/" * 33) is not far
    assert len(archive._roots) == 1
    assert near.weight >= 1024 + 32 * 256
    assert far.weight > near.weight


@pytest.mark.parametrize("user", [ANNA, NUMBERLESS])
def test_an_attach_looks_a_user_up_once(
    store: Store, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested(store, 30)
    files, asked, whole = guarded(store), 0, AccountBook.identity
    Driver().attach(files, b"web:/" + b"d/" * 30, user)

    def counted(self: AccountBook, home: File, uid: int) -> object:
        nonlocal asked
        asked += 1
        return whole(self, home, uid)

    monkeypatch.setattr(AccountBook, "identity", counted)
    files.attach(user, b"web:/" + b"d/" * 30)
    assert asked == 1


def test_known_accounts_are_bounded_in_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "BOOK_BYTES_MAX", 5000)
    for number in range(10):
        version(store, f"web{number}", passwd=PASSWD + b"u::%d:1\n" % number)
    drive, files = Driver(), guarded(store)
    for number in range(10):
        drive.attach(files, b"web%d@latest" % number, ANNA)
        assert files.accounts.bytes <= 5000
    assert len(files.accounts._known) == 2
    monkeypatch.setattr(accounts, "BOOK_BYTES_MAX", 1)
    for number in range(10):
        root = drive.attach(files, b"web%d@latest" % number, ANNA)
        assert drive.content(drive.walk(root, b"log")) == b"text of log"
    assert len(files.accounts._known) == 1


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), MemoryError()], ids=["io", "memory"])
def test_a_passing_error_of_nobodys_accounts_is_not_remembered(
    store: Store, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    version(store)
    files = guarded(store)

    def failing(self: object, *files: bytes) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(accounts.Accounts, "__init__", failing)
        with pytest.raises(type(error)):
            Driver().attach(files, b"web@latest", NUMBERLESS)
    root = Driver().attach(files, b"web@latest", NUMBERLESS)
    assert Driver().content(Driver().walk(root, b"world")) == b"text of world"
    assert outcome(lambda: Driver().walk(root, b"passed").walk(b"file").open(0)) == 0


def test_directories_are_charged_by_their_class_and_alike(store: Store) -> None:
    heavy = owned(directory(store, b"heavy", []), 0o755, 0, 0, (b"user.u", b"u" * 250))
    light = owned(directory(store, b"light", []), 0o755)
    large = text(b"text", 0o644, 0, 0, (b"user.u", b"u" * 250))
    commit_version(store, directory(store, b"", [heavy, light, large]), "web")
    drive, fids = Driver(), Fids(100, 0)
    root = drive.attach(guarded(store), b"web@latest", STRANGER)
    files = {name: drive.walk(root, name) for name in (b"heavy", b"light", b"text")}
    assert files[b"light"].weight is GuardedDirectory.weight is GUARDED_DIRECTORY_BYTES
    assert files[b"heavy"].weight > GUARDED_DIRECTORY_BYTES + 250
    assert files[b"text"].weight > 250
    made = [Fid(files[name]) for name in (b"light", b"light", b"heavy", b"text")]
    for fid in made:
        fids.charge(fid, fid.file.weight)
    assert made[0].charged is made[1].charged
    assert fids.share.held == sum(fid.file.weight for fid in made)
    fids.charge(made[0], 5)
    assert made[0].charged == (fids.share, GUARDED_DIRECTORY_BYTES + 5)
    for fid in made:
        fid.close()
    assert fids.share.held == 0

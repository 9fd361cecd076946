"""What the store does not do, and how it says so: one line, and always an exception of its own.

Newer formats and unknown features, things that are no store, file systems and permissions that do
not allow writing. What can be read without writing is read all the same.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from msgspec.structs import replace

from tests.support.conversing import NOBODY, as_nobody
from tests.support.disks import mounted
from tests.support.ledger import audited, encoded, made, put_recipes
from tests.support.processes import Peer, kill_all
from tests.support.stores import findings, new_store
from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Mode, Store
from ventifs.store.check import check
from ventifs.store.header import HEADER_NAME, NotAStore, Unsupported, encode_header, read_header
from ventifs.store.lmdb_environment import IndexMissing
from ventifs.store.permissions import Access, prepare

RECIPES = [(number, 5_000) for number in range(8)]
MODES: tuple[Mode, ...] = ("read", "write", "worker")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def populate(root: Path) -> Path:
    """A store with a record and its blocks."""
    new_store(root)
    with Store.open(root, "write") as store:
        put_recipes(store, RECIPES)
        store.commit([(b"key", encoded(RECIPES))])
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return populate(tmp_path / "store")


def assert_served(root: Path) -> None:
    """The store can be read."""
    with Store.open(root) as store:
        assert [record.key for record in store.records()] == [b"key"]
        for recipe in RECIPES:
            assert store.get(made(recipe)[0]) == made(recipe)[1]
        assert store.stats().blocks == len(RECIPES)


def refusal(action: Callable[[], object], kind: type[VentifsError]) -> str:
    """The one line that comes of an action."""
    with pytest.raises(VentifsError) as caught:
        action()
    assert type(caught.value) is kind
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def tree(root: Path) -> dict[str, bytes]:
    """Every file and what is in it, but for LMDB's table of readers."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "lock.mdb"
    }


# --- formats and features -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_store_of_a_newer_format_is_not_touched(root: Path, mode: Mode) -> None:
    (root / HEADER_NAME).write_bytes(encode_header(read_header(root), version=2))
    before = tree(root)
    text = refusal(lambda: Store.open(root, mode), Unsupported)
    assert text.startswith(f"{root}: store format 2 ")
    assert text.endswith("upgrade ventifs")
    refusal(lambda: check(root), Unsupported)
    assert tree(root) == before


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("bit", "what"), [(0, "is encrypted"), (1, "is remote"), (63, f"has the features {1 << 63:#x}")]
)
def test_store_with_an_unknown_incompatible_feature_is_not_opened(
    root: Path, mode: Mode, bit: int, what: str
) -> None:
    header = replace(read_header(root), incompatible=1 << bit)
    (root / HEADER_NAME).write_bytes(encode_header(header))
    before = tree(root)
    text = refusal(lambda: Store.open(root, mode), Unsupported)
    assert text == f"{root}: the store {what}, which this ventifs does not know: upgrade ventifs"
    assert tree(root) == before


@pytest.mark.parametrize("bit", [1, 63])
def test_store_with_an_unknown_read_only_compatible_feature_is_read_and_never_written(
    root: Path, bit: int
) -> None:
    header = replace(read_header(root), read_only_compatible=1 << bit)
    (root / HEADER_NAME).write_bytes(encode_header(header))
    before = tree(root)
    for mode in MODES[1:]:
        text = refusal(lambda mode=mode: Store.open(root, mode), Unsupported)  # type: ignore[misc]
        assert text.startswith(f"{root}: ")
        assert f"{1 << bit:#x}" in text
        assert text.endswith("upgrade ventifs to write")
    assert_served(root)
    audited(root)
    assert tree(root) == before


def test_store_with_an_unknown_compatible_feature_is_written(root: Path) -> None:
    header = replace(read_header(root), compatible=1 << 63)
    (root / HEADER_NAME).write_bytes(encode_header(header))
    with Store.open(root, "write") as store:
        store.commit([(b"more", b"")])
    with Store.open(root) as store:
        assert len(store.records()) == 2
    assert read_header(root).compatible == 1 << 63


@pytest.mark.parametrize("length", [0, 1, 255, 257, 4096])
def test_header_of_a_wrong_length_is_damaged(root: Path, length: int) -> None:
    whole = (root / HEADER_NAME).read_bytes()
    (root / HEADER_NAME).write_bytes(whole.ljust(length, b"\0")[:length])
    for mode in MODES:
        text = refusal(lambda mode=mode: Store.open(root, mode), Corrupt)  # type: ignore[misc]
        assert text.startswith(f"{root / HEADER_NAME}: store header is damaged")


# --- no store -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_store_is_named_and_left_alone(tmp_path: Path, mode: Mode) -> None:
    directory, file = tmp_path / "directory", tmp_path / "file"
    directory.mkdir()
    (directory / "precious").write_text("data")
    file.write_text("data")
    for path in (directory, file):
        text = refusal(lambda path=path: Store.open(path, mode), NotAStore)  # type: ignore[misc]
        assert (
            text
            == f"{path}: not a ventifs store; name one, or have 'ventifs init' make one elsewhere"
        )
    for path in (tmp_path / "missing", tmp_path / "missing/as/well", file / "below"):
        text = refusal(lambda path=path: Store.open(path, mode), NotAStore)  # type: ignore[misc]
        assert text.startswith(f"{path}: ")
    assert tree(tmp_path) == {"directory/precious": b"data", "file": b"data"}
    refusal(lambda: check(directory), NotAStore)


def test_header_that_is_a_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "store" / HEADER_NAME).mkdir(parents=True)
    text = refusal(lambda: Store.open(tmp_path / "store"), VentifsError)
    assert text == f"{tmp_path / 'store' / HEADER_NAME}: is a directory"


def test_creation_refuses_what_is_there_already(root: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    text = refusal(lambda: Store.create(root), VentifsError)
    assert text == f"{root}: there is a ventifs store already; it is untouched"
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory/precious").write_text("data")
    text = refusal(lambda: Store.create(tmp_path / "directory"), VentifsError)
    assert text == f"{tmp_path / 'directory'}: the directory is not empty; name another"
    text = refusal(lambda: Store.create(tmp_path / "directory/precious"), VentifsError)
    assert text.startswith(f"{tmp_path / 'directory/precious'}: ")
    assert tree(tmp_path) == {**before, "directory/precious": b"data"}


def test_reader_of_a_store_without_index_is_told_what_to_do(root: Path) -> None:
    (root / "index/data.mdb").unlink()
    text = refusal(lambda: Store.open(root), IndexMissing)
    assert text.startswith(f"{root / 'index'}: index is missing; 'ventifs rebuild-index' mends it")


# --- read-only file systems and stores ----------------------------------------------------------


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk") as disk:
        root = populate(disk.path / "store")
        disk.remount("ro")
        yield root


def test_store_on_a_read_only_file_system_is_read(read_only: Path) -> None:
    assert_served(read_only)
    assert findings(read_only) == []


@pytest.mark.parametrize("mode", ["write", "worker"])
def test_store_on_a_read_only_file_system_is_not_written(read_only: Path, mode: Mode) -> None:
    text = refusal(lambda: Store.open(read_only, mode), VentifsError)
    assert text.startswith(str(read_only))
    assert "read-only" in text
    assert_served(read_only)


def test_nothing_is_created_on_a_read_only_file_system(read_only: Path) -> None:
    text = refusal(lambda: Store.create(read_only.parent / "new"), VentifsError)
    assert text.startswith(str(read_only.parent / "new"))
    assert "read-only" in text


# --- another user -------------------------------------------------------------------------------


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A store of root's that others can reach; pytest's own directories are closed to them."""
    with TemporaryDirectory(dir="/tmp", prefix="ventifs-test-") as directory:
        Path(directory).chmod(0o755)
        root = populate(Path(directory) / "store")
        prepare(root, Access(0o2750, NOBODY))
        yield root
        kill_all()


def ask_nobody(root: Path, what: str) -> tuple[str, str] | None:
    """What comes of it when an ordinary user does it: None, or (class name, message)."""
    nobody = Peer(as_nobody, root)
    answer = nobody.ask(what)
    nobody.end()
    assert answer is None or isinstance(answer, tuple)
    if answer is not None:
        assert len(answer[1].splitlines()) == 1
        assert answer[1].startswith(str(root.parent))
        assert "permission denied" in answer[1].lower()
    return answer


@as_root
def test_another_user_reads_what_root_has_written_and_writes_nothing(reachable: Path) -> None:
    before = tree(reachable)
    assert ask_nobody(reachable, "read") is None
    for what in ("write", "worker", "create"):
        refused = ask_nobody(reachable, what)
        assert refused is not None
    assert tree(reachable) == before


@as_root
def test_another_user_reads_while_root_writes(reachable: Path) -> None:
    with Store.open(reachable, "write") as store:
        put_recipes(store, [(100, 5_000)])
        assert ask_nobody(reachable, "read") is None
        store.commit([(b"key 2", b"")])
        assert ask_nobody(reachable, "read") is None
    with Store.open(reachable) as reader:
        assert len(reader.records()) == 2


@as_root
def test_store_without_any_write_permission_but_for_the_lock_is_read(reachable: Path) -> None:
    for path in [reachable, *reachable.rglob("*")]:
        if path.name != "lock.mdb":
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    assert ask_nobody(reachable, "read") is None
    assert ask_nobody(reachable, "write") is not None


@as_root
@pytest.mark.parametrize(
    "closed", ["", HEADER_NAME, "index", "index/data.mdb", "arenas", "arenas/open"]
)
def test_reading_without_permission_says_so_in_one_line(reachable: Path, closed: str) -> None:
    (reachable / closed).chmod(0)
    assert ask_nobody(reachable, "read") is not None


@as_root
def test_reading_an_arena_without_permission_names_it(reachable: Path) -> None:
    arena = next((reachable / "arenas/open").iterdir())
    arena.chmod(0)
    refused = ask_nobody(reachable, "read")
    assert refused is not None
    assert refused[1].startswith(str(arena))


@as_root
@pytest.mark.parametrize("closed", ["arenas/open", "index", "index/data.mdb"])
def test_writing_without_permission_for_a_part_says_so_in_one_line(
    reachable: Path, closed: str
) -> None:
    for path in [reachable, *reachable.rglob("*")]:
        os.chown(path, 65534, 65534)
    os.chown(reachable / closed, 0, -1)
    (reachable / closed).chmod(0o755 if (reachable / closed).is_dir() else 0o644)
    if closed == "index":
        os.chown(reachable / "index/data.mdb", 0, -1)
    if closed == "arenas/open":
        for path in (reachable / closed).iterdir():
            os.chown(path, 0, -1)
    assert ask_nobody(reachable, "write") is not None
    assert ask_nobody(reachable, "read") is None
    assert_served(reachable)
    os.chown(reachable / closed, 65534, 65534)
    for path in reachable.rglob("*"):
        os.chown(path, 65534, 65534)
    assert ask_nobody(reachable, "write") is None

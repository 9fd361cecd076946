"""Directories are listed in order, searched by name, and resolved without following links."""

import itertools
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.stores import new_store
from ventifs.errors import Corrupt
from ventifs.store import Store
from ventifs.tree.objects.directory import (
    NoSuchPath,
    build,
    entries,
    look_up,
    resolve,
    tree,
)
from ventifs.tree.objects.records import (
    Content,
    Detail,
    Directory,
    Empty,
    Entry,
    Inline,
    RegularFile,
    Symlink,
    Tree,
    encode,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        yield opened


def entry(name: bytes, mode: int, detail: Detail) -> Entry:
    return Entry(name, mode, 0, 0, 0, detail, Empty(), b"")


def file(name: bytes) -> Entry:
    return entry(name, stat.S_IFREG | 0o644, RegularFile(Inline(name[:32])))


def stored(store: Store, *children: Entry) -> Content:
    """A directory's content, in the order given."""
    pairs = [(child.name, encode(child)) for child in children]
    return build(lambda data: store.put(data, node=True)[0], pairs)


def directory(store: Store, name: bytes, *children: Entry) -> Entry:
    detail = Directory(stored(store, *children), 99, 0)
    return entry(name, stat.S_IFDIR | 0o755, detail)


NAMES = sorted(b"%x" % number for number in range(1, 3000))


def test_an_empty_directory_holds_nothing(store: Store) -> None:
    assert stored(store) == Empty()
    assert list(entries(store, Empty())) == []
    assert look_up(store, Empty(), b"a") is None


def test_entries_come_in_order_from_any_ordinal(store: Store) -> None:
    content = stored(store, *map(file, NAMES))
    assert isinstance(content, Tree)
    assert content.length == len(NAMES)
    assert list(entries(store, content)) == list(map(file, NAMES))
    for start in (0, 1, 500, len(NAMES) - 1, len(NAMES), len(NAMES) + 1):
        assert [found.name for found in entries(store, content, start)] == NAMES[start:]


def test_every_name_is_found_and_no_other(store: Store) -> None:
    content = stored(store, *map(file, NAMES))
    for name in NAMES:
        assert look_up(store, content, name) == file(name)
        assert look_up(store, content, name + b"\0") is None
    assert look_up(store, content, b"") is None
    assert look_up(store, content, b"\xff") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sets(st.binary(min_size=1, max_size=255)))
def test_any_names_are_found(store: Store, raw: set[bytes]) -> None:
    names = sorted({name.replace(b"/", b"|").replace(b"\0", b"0") for name in raw} - {b".", b".."})
    content = stored(store, *map(file, names))
    assert [found.name for found in entries(store, content)] == names
    assert all(look_up(store, content, name) == file(name) for name in names)


@pytest.mark.parametrize("names", [[b"b", b"a"], [b"a", b"a"], [b"a", b"b", b"c", b"b"]])
def test_a_directory_out_of_order_is_corrupt(store: Store, names: list[bytes]) -> None:
    content = stored(store, *map(file, names))
    with pytest.raises(Corrupt, match="out of order"):
        list(entries(store, content))


def test_a_large_directory_out_of_order_is_corrupt(store: Store) -> None:
    content = stored(store, *map(file, [*NAMES, b"0"]))
    with pytest.raises(Corrupt, match="out of order"):
        list(entries(store, content))


def test_a_name_that_cannot_be_is_corrupt(store: Store) -> None:
    for name in (b"..", b"a/b"):
        with pytest.raises(Corrupt):
            list(entries(store, stored(store, file(name))))


@pytest.fixture
def root(store: Store) -> Entry:
    below = directory(store, b"sub", file(b"deep"), file(b"x\xff"))
    link = entry(b"link", stat.S_IFLNK | 0o777, Symlink(b"sub"))
    return directory(store, b"", file(b"file"), link, below)


@pytest.mark.parametrize("path", [b"", b"/", b".", b"//./"])
def test_the_root_has_many_paths(store: Store, root: Entry, path: bytes) -> None:
    assert resolve(store, root, path) == root


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"file", b"file"),
        (b"/sub/deep", b"deep"),
        (b"sub//./deep/", b"deep"),
        (b"sub/x\xff", b"x\xff"),
        (b"link", b"link"),
    ],
)
def test_paths_lead_to_entries(store: Store, root: Entry, path: bytes, name: bytes) -> None:
    assert resolve(store, root, path).name == name


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (b"nothing", "/nothing: no such path in this version"),
        (b"sub/no\n/deeper", r"/sub/no\n: no such path in this version"),
        (b"file/x", "/file: not a directory"),
        (b"link/deep", "/link: a symbolic link, which is not followed"),
        (b"sub/../file", "/sub/..: no such path in this version"),
    ],
)
def test_paths_that_lead_nowhere_say_where_they_end(
    store: Store, root: Entry, path: bytes, message: str
) -> None:
    with pytest.raises(NoSuchPath) as caught:
        resolve(store, root, path)
    assert str(caught.value) == message


def test_everything_below_is_walked_parents_first(store: Store, root: Entry) -> None:
    paths = [path for path, _ in tree(store, root)]
    assert paths == [b"file", b"link", b"sub", b"sub/deep", b"sub/x\xff"]
    assert [path for path, _ in tree(store, root, b"at")][-1] == b"at/sub/x\xff"
    assert list(tree(store, resolve(store, root, b"file"))) == []


def test_a_look_up_costs_a_node_a_level(store: Store) -> None:
    content = stored(store, *map(file, NAMES))
    reads = itertools.count()
    real = store.get

    class Counting:
        def get(self, score: object) -> memoryview:
            next(reads)
            return real(score)  # type: ignore[arg-type]

    assert look_up(Counting(), content, NAMES[1500]) is not None  # type: ignore[arg-type]
    assert next(reads) <= 3

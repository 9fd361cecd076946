"""What each of many versions alone holds: what one look at each, and counting by hand, find."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.support.forging import commit_version, directory, file, tree_of
from tests.support.stores import new_store
from tests.support.trees import noise
from ventifs.errors import Corrupt
from ventifs.store import Score, Store
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import Block, Chunk, Content, Entry, Slice
from ventifs.tree.versions.catalog import Version
from ventifs.tree.versions.exclusive import exclusive, exclusives
from ventifs.tree.versions.reachable import RefKind, reach, reach_version

# A tree in words: a file's content by number; a file with the bytes of a directory's root node; a
# file of several contents as chunks or slices; or a directory of trees.
Words = int | str | tuple["int | str", ...] | dict[str, "Words"]

_CONTENTS = some.integers(0, 5)
_FILES = some.one_of(
    _CONTENTS,
    some.sampled_from(["disguised 0", "disguised 1", "disguised 2"]),
    some.lists(some.one_of(_CONTENTS, some.just("slice")), min_size=2, max_size=4).map(tuple),
)
_SHARED: "list[dict[str, Words]]" = [
    {"a": 0, "b": 1},
    {"a": 0, "sub": {"x": 2}},
    {"deep": {"sub": {"x": 2}, "y": (3, 4)}},
]
_TREES = some.recursive(
    some.one_of(_FILES, some.sampled_from(_SHARED)),
    lambda inner: some.dictionaries(some.sampled_from("abcdef"), inner, max_size=4),
    max_leaves=8,
)
_ROOTS = some.dictionaries(some.sampled_from("abcdef"), _TREES, max_size=4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(new_store(tmp_path_factory.mktemp("s") / "store"), "write") as opened:
        yield opened


class Maker:
    """Makes trees of words in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer = ContentWriter(store)

    def root(self, words: "dict[str, Words]") -> Entry:
        return self._entry("", words)

    def _entry(self, name: str, words: "Words") -> Entry:
        if isinstance(words, dict):
            inside = [self._entry(each, words[each]) for each in sorted(words)]
            return directory(self._store, name.encode(), inside)
        return file(name.encode(), self._content(words))

    def _content(self, words: "int | str | tuple[int | str, ...]") -> Content:
        if isinstance(words, int):
            return self._writer.write_whole(noise(100 + words, words))
        if isinstance(words, str):
            tree = self._entry("", _SHARED[int(words[-1])])
            *_, top = reach(self._store, tree, set())
            assert top.kind is RefKind.DIRECTORY
            return self._writer.write_whole(bytes(self._store.get(top.score)))
        items: list[Chunk | Slice] = []
        for each in words:
            if isinstance(each, str):
                items.append(Slice(tree_of(self._store, [self._chunk(0), self._chunk(1)]), 3, 90))
            else:
                items.append(self._chunk(each))
        return tree_of(self._store, items)

    def _chunk(self, number: int) -> Chunk:
        content = self._content(number)
        assert isinstance(content, Block)
        return Chunk(content.score, content.length)


def versions_of(store: Store, made: "Sequence[tuple[str, dict[str, Words]]]") -> list[Version]:
    maker = Maker(store)
    return [Version(name, number, maker.root(words)) for number, (name, words) in enumerate(made)]


def all_of(store: Store, version: Version) -> set[Score]:
    return {ref.score for ref in reach_version(store, version, set())}


def union_of(store: Store, found: Sequence[Version]) -> set[Score]:
    return {score for version in found for score in all_of(store, version)}


@given(
    some.lists(some.tuples(some.sampled_from(["m", "n", "o"]), _ROOTS), max_size=6),
    some.lists(_ROOTS, max_size=2),
)
def test_it_is_what_single_looks_find(
    store: Store, wanted: "list[tuple[str, dict[str, Words]]]", others: "list[dict[str, Words]]"
) -> None:
    found = versions_of(store, wanted)
    rest = versions_of(store, [("other", words) for words in others])
    only, names = exclusives(store, found, rest)
    for number, version in enumerate(found):
        beside = [*found[:number], *found[number + 1 :], *rest]
        assert only[number] == exclusive(store, version, beside)
    # And by hand, without any walk that leaves out what it has seen in another version.
    holders = Counter(score for version in (*found, *rest) for score in all_of(store, version))
    assert only == [
        {score for score in all_of(store, version) if holders[score] == 1} for version in found
    ]
    assert list(names) == list(dict.fromkeys(name for name, _ in wanted))
    for name, scores in names.items():
        own = union_of(store, [each for each in found if each.name == name])
        assert scores == own - union_of(store, [e for e in (*found, *rest) if e.name != name])


@pytest.mark.parametrize("first", ["disguised", "tree"])
def test_a_node_as_data_holds_nothing_below_it(store: Store, first: str) -> None:
    """In either order; the node's own block has two holders."""
    tree: Words = _SHARED[2]
    roots: dict[str, dict[str, Words]] = {"tree": {"d": tree}, "disguised": {"f": "disguised 2"}}
    order = [first, *(roots.keys() - {first})]
    found = versions_of(store, [(name, roots[name]) for name in order])
    only = dict(zip(order, exclusives(store, found).versions, strict=True))
    *_, node, _ = [ref.score for ref in reach(store, Maker(store).root({"d": tree}), set())]
    assert node not in only["tree"] | only["disguised"]
    assert len(only["tree"]) == len(all_of(store, found[order.index("tree")])) - 1
    assert len(only["disguised"]) == 1  # its own root


def test_no_node_is_read_more_than_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many versions share it: as of one version, of one name, of several names."""
    with Store.open(new_store(tmp_path / "store"), "write") as store:
        shared: dict[str, Words] = {"a": {"b": {"c": 1, "d": (1, 2)}}, "e": _SHARED[2]}
        made = [(f"n{number % 3}", {**shared, f"x{number}": number}) for number in range(30)]
        found = versions_of(store, [*sorted(made, key=lambda each: each[0])])
        read: Counter[Score] = Counter()
        real = Store.get

        def get(self: Store, score: Score) -> memoryview:
            read[score] += 1
            return real(self, score)

        monkeypatch.setattr(Store, "get", get)
        exclusives(store, found[:20], found[20:])
    assert max(read.values()) == 3
    assert len(read) < len(found) + 20  # the shared nodes, and a root of each


def test_progress_is_reported(store: Store) -> None:
    reported: list[int] = []
    found = versions_of(store, [("n", {"a": 0, "b": {"c": 1}})])
    exclusives(store, found, [], reported.append)
    assert reported == sorted(reported)
    assert reported[-1] >= 3


def test_nothing_asked_for_is_nothing(store: Store) -> None:
    assert exclusives(store, [], versions_of(store, [("n", {"a": 0})])) == ([], {})


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_damaged_version_is_named(tmp_path: Path, which: int) -> None:
    with Store.open(new_store(tmp_path / "store"), "write") as store:
        maker = Maker(store)
        found = [
            commit_version(store, maker.root({"a": number, "b": {"c": number}}), "n", number)
            for number in range(3)
        ]
        rest = [each for each in found if each is not found[which]]
        lost = all_of(store, found[which]) - union_of(store, rest)
        real = store.get

        def get(score: Score) -> memoryview:
            if score in lost:
                raise Corrupt("damaged", score=score)
            return real(score)

        store.get = get  # type: ignore[method-assign]
        with pytest.raises(Corrupt, match=f"{found[which]}: .*damaged.*'ventifs check'"):
            exclusives(store, found[:2], found[2:])

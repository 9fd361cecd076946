"""Marking: reaches just what versions and leases need, or stops with a name."""

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.damage import flip
from tests.support.dropping import arenas_of, copy_from
from tests.support.forging import commit_version, directory, directory_of, file, tree_of
from tests.support.stores import new_store
from tests.support.trees import archived, noise, plain_tree
from ventifs.errors import Corrupt, NotStored
from ventifs.store import ZERO_SCORE, Score, Store, score_of
from ventifs.store.spill import Spill
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.prolly import load
from ventifs.tree.objects.records import (
    Block,
    Child,
    Chunk,
    Content,
    Directory,
    Empty,
    Entry,
    Hole,
    Inline,
    Item,
    Listed,
    Slice,
    Tree,
    encode,
)
from ventifs.tree.reclaim import mark as module
from ventifs.tree.reclaim.mark import Marks, found_in
from ventifs.tree.reclaim.roots import roots_before
from ventifs.tree.versions.catalog import Version, encode_version, version_key, versions
from ventifs.tree.versions.reachable import Ref, RefKind, below, reach_version, top

TINY = 1  # byte of memory: all goes through temporary files, some items at a time
ROLE = {RefKind.CONTENT: b"\0", RefKind.DIRECTORY: b"\1"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        yield opened


def all_of(spill: Spill) -> list[bytes]:
    return list(chain.from_iterable(spill.pieces()))


def refs_of(found: Iterable[Version]) -> list[Ref]:
    return [ref for version in found for ref in top(version)]


def content_of(store: Store, data: bytes) -> Content:
    return ContentWriter(store).write_whole(data)


def tree_content(store: Store, data: bytes) -> Tree:
    content = content_of(store, data)
    assert isinstance(content, Tree)
    return content


class Model:
    """What is to be marked: a walk without shortcuts, as `below` has it."""

    def __init__(self, store: Store, refs: Iterable[Ref]) -> None:
        self.live: set[bytes] = set()
        self.walked: set[Ref] = set()
        self.references = 0
        pending = list(refs)
        while pending:
            ref = pending.pop()
            self.references += 1
            if ref.score != ZERO_SCORE:
                self.live.add(ref.score)
            if ref.kind is not RefKind.DATA and ref not in self.walked:
                self.walked.add(ref)
                pending += below(store, ref)

    @property
    def nodes(self) -> list[bytes]:
        return sorted(ref.score + ROLE[ref.kind] for ref in self.walked)


def marked(
    store: Store,
    refs: Iterable[Ref],
    *,
    memory: int = module.MEMORY_DEFAULT,
    first: int = 0,
    end: int = 256,
) -> Marks:
    marks = Marks(store, memory=memory, first=first, end=end)
    marks.mark(refs)
    return marks


def agrees(store: Store, refs: list[Ref], memory: int = module.MEMORY_DEFAULT) -> Marks:
    """What is marked, compared with the model."""
    marks, model = marked(store, refs, memory=memory), Model(store, refs)
    assert all_of(marks.live) == sorted(model.live)
    assert all_of(marks.walked) == model.nodes
    assert marks.references == model.references
    return marks


# --- what is reached ----------------------------------------------------------------------------


@pytest.fixture(params=[module.MEMORY_DEFAULT, TINY])
def memory(request: pytest.FixtureRequest) -> int:
    memory: int = request.param
    return memory


def everything(store: Store) -> list[Ref]:
    """Versions with all that entries and contents can refer to."""
    writer = ContentWriter(store)
    large = tree_content(store, noise(400_000, 1))
    disk = tree_of(
        store,
        [
            Slice(large, 1000, 90_000),
            Hole(40_000),
            Slice(content_of(store, noise(3000, 2)), 6, 300),
            Slice(Inline(b"inline"), 2, 4),
            Chunk(store.put(noise(4096, 3))[0], 4096),
            Slice(tree_of(store, [Slice(tree_content(store, noise(200_000, 4)), 9, 99)]), 0, 9),
        ],
    )
    long = writer.write_xattrs(((b"user.long", noise(2000, 5)),))
    longer = writer.write_xattrs(((b"user.longer", noise(200_000, 6)),))
    assert (type(long), type(longer)) == (Block, Tree)
    inside = [
        file(b"block", content_of(store, noise(2000, 7)), long),
        file(b"empty", Empty(), Listed(((b"user.a", b"b"),))),
        file(b"inline", Inline(b"few")),
        file(b"tree", tree_content(store, noise(300_000, 8)), longer),
    ]
    root = directory(
        store,
        b"",
        [
            file(b"disk.img", disk),
            msgspec.structs.replace(directory(store, b"e", []), xattrs=longer),
            msgspec.structs.replace(directory(store, b"i", inside), xattrs=long),
        ],
    )
    commit_version(store, root, time_ns=1)
    for number, size in enumerate((3000, 300_000)):
        beyond = content_of(store, noise(size, 10 + number))
        version = Version("troubles", number, root, troubles_more=1, beyond=beyond)
        store.commit([(version_key("troubles", number), encode_version(version))])
    return refs_of(versions(store))


def test_nothing_refers_to_nothing(store: Store) -> None:
    marks = agrees(store, [])
    assert (all_of(marks.live), marks.references) == ([], 0)


def test_all_that_versions_refer_to_is_reached(store: Store, memory: int) -> None:
    refs = everything(store)
    marks = agrees(store, refs, memory=memory)
    seen: set[Score] = set()
    reached = (reach_version(store, version, seen) for version in versions(store))
    assert set(all_of(marks.live)) == {ref.score for ref in chain.from_iterable(reached)}
    assert all_of(marks.live) == sorted(score for score, _ in store._index.entries())


def test_versions_of_a_real_tree(tmp_path: Path, memory: int) -> None:
    root, source = new_store(tmp_path / "store"), plain_tree(tmp_path / "source")
    for number in range(300):
        (source / f"many{number}").write_bytes(noise(100 + number, number))
    archived(root, source, time_ns=1)
    (source / "many7").write_bytes(noise(200_000))
    archived(root, source, time_ns=2)
    (source / "links").rename(source / "moved")
    archived(root, source, time_ns=3)
    with Store.open(root) as store:
        every = versions(store)
        agrees(store, refs_of(every), memory=memory)
        alone = [agrees(store, refs_of([version]), memory=memory) for version in every]
        assert len({tuple(all_of(marks.live)) for marks in alone}) == 3


def test_marking_goes_on_where_it_was(store: Store) -> None:
    refs = everything(store)
    marks = Marks(store)
    for ref in refs:
        marks.mark([ref])
    marks.mark(refs)
    model = Model(store, refs)
    assert (all_of(marks.live), all_of(marks.walked)) == (sorted(model.live), model.nodes)
    assert marks.references == model.references + len(refs)


def test_each_node_is_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = everything(store)
    read: list[bytes] = []

    def found(data: bytes | memoryview, role: bytes) -> module.Found:
        read.append(bytes(data) + role)
        return found_in(data, role)

    monkeypatch.setattr(module, "found_in", found)
    marks = marked(store, refs + refs)
    marks.mark(refs)
    marks.since(refs).close()
    assert len(read) == len(set(read)) == len(Model(store, refs).walked)


def test_clumps_are_read_in_the_order_in_which_they_lie(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = [file(b"%05d" % at, content_of(store, noise(99, at))) for at in range(20_000)]
    refs = refs_of([commit_version(store, directory(store, b"", children))])
    store.commit()
    asked: list[Score] = []
    get = store.get

    def noting(score: Score) -> memoryview:
        asked.append(score)
        return get(score)

    monkeypatch.setattr(store, "get", noting)
    marked(store, refs)
    levels = [load(get, score, None).level for score in asked]
    assert levels == sorted(levels, reverse=True)
    assert len(asked) > 100
    for level in set(levels):
        places = store.locate_many([s for s, at in zip(asked, levels, strict=True) if at == level])
        found = [(place.arena, place.offset) for place in places if place is not None]
        assert found == sorted(found)


def test_zeros_are_never_live(store: Store) -> None:
    tree = tree_of(store, [Chunk(ZERO_SCORE, 4096), Chunk(store.put(b"x" * 99)[0], 99)])
    root = directory(store, b"", [file(b"a", Block(ZERO_SCORE, 5)), file(b"b", tree)])
    refs = refs_of([commit_version(store, root)])
    marks = agrees(store, [*refs, Ref(ZERO_SCORE, RefKind.DATA)])
    assert ZERO_SCORE not in all_of(marks.live)


def test_deep_directories(store: Store) -> None:
    entry = directory(store, b"d", [file(b"f", content_of(store, noise(500)))])
    for _ in range(2000):
        entry = directory(store, b"d", [entry])
    root = directory(store, b"", [entry])
    refs = refs_of([commit_version(store, root)])
    marks = agrees(store, refs)
    assert marks.references == 2003


def test_the_bytes_of_a_node_may_be_a_file_too(store: Store) -> None:
    """Whichever is reached first: what is below the node lives."""
    node = tree_content(store, noise(300_000, 1))
    listing = directory(store, b"", [file(b"only here", content_of(store, noise(2000, 2)))])
    assert isinstance(listing.detail, Directory)
    assert isinstance(listing.detail.content, Tree)
    contents = [
        Block(score, len(store.get(score)))
        for score in (Score(node.score), Score(listing.detail.content.score))
    ]
    as_data = [file(b"b%d" % at, content) for at, content in enumerate(contents)]
    as_nodes: list[Entry] = [msgspec.structs.replace(listing, name=b"d"), file(b"f", node)]
    for first, second in [(as_data, as_nodes), (as_nodes, as_data)]:
        later = directory(store, b"z", [directory(store, b"y", second)])
        refs = refs_of([commit_version(store, directory(store, b"", [*first, later]))])
        agrees(store, refs)
    both = directory(store, b"", sorted([*as_data, *as_nodes], key=lambda entry: entry.name))
    agrees(store, refs_of([commit_version(store, both)]))
    chunks = tree_of(store, [Chunk(content.score, content.length) for content in contents])
    refs = refs_of([commit_version(store, directory(store, b"", [*as_nodes, file(b"g", chunks)]))])
    agrees(store, refs)


def test_a_leased_root_is_marked_as_a_version_is(store: Store) -> None:
    refs = everything(store)
    every = versions(store)
    with Store.open(store.path) as reader:
        held = reader.lease(*{encode(version.root) for version in every})
        store.commit(deletes=[version.record for version in every if version.record])
        of_leases = list(roots_before(store, 0).references())
        held.release()
    marks = agrees(store, of_leases)
    without_troubles = Model(store, [ref for ref in refs if ref in of_leases])
    assert all_of(marks.live) == sorted(without_troubles.live)


def test_progress_is_reported(store: Store) -> None:
    refs = everything(store)
    reported: list[int] = []
    marks = Marks(store, progress=reported.append)
    marks.mark(refs)
    assert reported == sorted(reported)
    assert reported[-1] == marks.references


def test_passes_by_prefix_make_up_the_whole(store: Store) -> None:
    refs = everything(store)
    whole = marked(store, refs)
    parts = [(0, 1), (1, 100), (100, 101), (101, 256)]
    passes = [marked(store, refs, first=first, end=end) for first, end in parts]
    assert [s for part in passes for s in all_of(part.live)] == all_of(whole.live)
    for (first, end), part in zip(parts, passes, strict=True):
        assert all(first <= score[0] < end for score in all_of(part.live))
        assert all_of(part.walked) == all_of(whole.walked)
        assert part.references == whole.references


# --- what came since ----------------------------------------------------------------------------


def newly(store: Store, refs: list[Ref], before: set[Ref]) -> set[bytes]:
    """What is reached from references without going below nodes that were walked before."""
    found: set[bytes] = set()
    walked = set(before)
    pending = list(refs)
    while pending:
        ref = pending.pop()
        if ref.kind is RefKind.DATA:
            found.add(ref.score)
        elif ref not in walked:
            walked.add(ref)
            found.add(ref.score)
            pending += below(store, ref)
    return found


def move_everything(store: Store) -> None:
    """Store all blocks again elsewhere, so that the index leads there."""
    scores = sorted(score for score, _ in store._index.entries())
    before = store.locate_many(scores)
    copy_from(store, arenas_of(store).all_ids(), scores)
    after = store.locate_many(scores)
    assert not set(before) & set(after)


@pytest.mark.parametrize("moved", [False, True])
def test_since_reaches_what_is_new(tmp_path: Path, memory: int, *, moved: bool) -> None:
    root, source = new_store(tmp_path / "store"), plain_tree(tmp_path / "source")
    archived(root, source, time_ns=1)
    with Store.open(root, "write") as store:
        refs = refs_of(versions(store))
        marks = marked(store, refs, memory=memory)
        before = Model(store, refs)
        if moved:
            move_everything(store)
        with marks.since(refs) as fresh:
            assert all_of(fresh) == []
        (source / "new").write_bytes(noise(200_000, 99))
        (source / "links").rename(source / "moved")
    archived(root, source, time_ns=2)
    with Store.open(root, "write") as store:
        marks._store = store
        again = refs_of(versions(store))
        with marks.since(again) as fresh:
            assert all_of(fresh) == sorted(newly(store, again, before.walked))
        whole = Model(store, again)
        assert (all_of(marks.live), all_of(marks.walked)) == (sorted(whole.live), whole.nodes)
        if moved:
            move_everything(store)
        with marks.since(again) as fresh:
            assert all_of(fresh) == []
        marks.mark(again)  # places are others: walks again, and finds the same
        assert all_of(marks.live) == sorted(whole.live)


def test_since_reaches_what_was_live_only_as_data(store: Store) -> None:
    node = tree_content(store, noise(300_000))
    as_data = file(b"a", Block(node.score, len(store.get(Score(node.score)))))
    first = commit_version(store, directory(store, b"", [as_data]), time_ns=1)
    marks = marked(store, refs_of([first]))
    second = commit_version(store, directory(store, b"", [file(b"f", node)]), time_ns=2)
    with marks.since(refs_of([second])) as fresh:
        assert all_of(fresh) == sorted(Model(store, refs_of([second])).live)


def test_since_reaches_scores_again_that_new_nodes_refer_to(store: Store) -> None:
    """They may be in an arena that is to go, so they are reported."""
    content = content_of(store, noise(2000))
    assert isinstance(content, Block)
    first = commit_version(store, directory(store, b"", [file(b"a", content)]), time_ns=1)
    marks = marked(store, refs_of([first]))
    second = commit_version(store, directory(store, b"", [file(b"b", content)]), time_ns=2)
    with marks.since(refs_of([second])) as fresh:
        assert content.score in all_of(fresh)


# --- what cannot be followed --------------------------------------------------------------------


def two_trees(store: Store) -> tuple[list[Ref], list[Score]]:
    trees = [tree_content(store, noise(300_000, seed)) for seed in range(2)]
    root = directory(store, b"", [file(b"%d" % at, tree) for at, tree in enumerate(trees)])
    return refs_of([commit_version(store, root)]), sorted(Score(tree.score) for tree in trees)


def test_a_missing_node_is_named(store: Store) -> None:
    refs, scores = two_trees(store)
    for score in reversed(scores):
        store._index.drop_block(score)
        for walk in (Marks(store).mark, Marks(store).since):
            with pytest.raises(NotStored, match=score.hex()) as raised:
                walk(refs)
            assert "'ventifs check'" in str(raised.value)


def test_a_missing_root_is_named(store: Store) -> None:
    absent = Score(bytes(32))
    with pytest.raises(NotStored, match=absent.hex()):
        Marks(store).mark([Ref(absent, RefKind.DIRECTORY)])


def test_missing_data_is_not_noticed_here(store: Store) -> None:
    absent = Score(bytes(32))
    assert all_of(marked(store, [Ref(absent, RefKind.DATA)]).live) == [absent]


def test_a_damaged_node_is_named_with_its_place(tmp_path: Path) -> None:
    root = new_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        refs, scores = two_trees(store)
        [place] = store.locate_many(scores[:1])
        assert place is not None
        path = arenas_of(store).open_path(place.arena)
    with Store.open(root) as store:
        head = arenas_of(store).reader(place.arena).read_head(place.offset)
    flip(path, place.offset + len(head.listed) + head.payload_length // 2)
    with Store.open(root) as store:
        marks = Marks(store)
        with pytest.raises(Corrupt, match="'ventifs check'") as raised:
            marks.mark(refs)
        assert (raised.value.arena, raised.value.offset) == (place.arena.hex(), place.offset)
        assert raised.value.score is not None
        assert raised.value.score.hex() in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda score: directory_of(b"d", Tree(score, 1), 1, 0),
        lambda score: file(b"f", Tree(score, 1)),
        lambda score: file(b"f", Empty(), Tree(score, 1)),
    ],
)
@pytest.mark.parametrize("data", [b"no node at all", b"\xc1", b"\x92\x00\x90\xc1"])
def test_a_block_that_is_no_node_is_named(
    store: Store, wrap: Callable[[Score], Entry], data: bytes
) -> None:
    score, _ = store.put(data)
    refs = refs_of([commit_version(store, directory(store, b"", [wrap(score)]))])
    with pytest.raises(Corrupt, match=score.hex()):
        Marks(store).mark(refs)


def test_a_node_of_another_role_is_named(store: Store) -> None:
    """Also if it was walked in its own role."""
    node = tree_content(store, noise(300_000))
    listing = directory(store, b"", [file(b"f", node)])
    assert isinstance(listing.detail, Directory)
    assert isinstance(listing.detail.content, Tree)
    of_directory = Score(listing.detail.content.score)
    marks = marked(store, refs_of([commit_version(store, listing)]))
    leaf = next(iter(below(store, Ref(Score(node.score), RefKind.CONTENT))))
    level = load(store.get, Score(node.score), None).level
    wrong = leaf.score if level else Score(node.score)
    for ref in (Ref(wrong, RefKind.DIRECTORY), Ref(of_directory, RefKind.CONTENT)):
        for walk in (marks.mark, marks.since):
            with pytest.raises(Corrupt, match=ref.score.hex()):
                walk([ref])


# --- nodes --------------------------------------------------------------------------------------

SCORE = bytes(range(1, 33))
SCORES = st.binary(min_size=32, max_size=32)
CONTENTS = st.one_of(
    st.just(Empty()),
    st.builds(Inline, st.binary(min_size=1, max_size=32)),
    st.builds(Block, SCORES, st.integers(1, 65536)),
    st.builds(Tree, SCORES, st.integers(1, 2**63 - 1)),
)
ITEMS: st.SearchStrategy[Item] = st.one_of(
    st.builds(Hole, st.integers(1, 2**63 - 1)),
    st.builds(Chunk, SCORES, st.integers(1, 65536)),
    st.builds(lambda score, length: Slice(Tree(score, length), 0, length), SCORES, st.just(9)),
    st.builds(lambda score, length: Slice(Block(score, length), 0, length), SCORES, st.just(9)),
)
ENTRIES = st.one_of(
    st.builds(
        file,
        st.binary(min_size=1, max_size=9).filter(lambda n: not set(n) & {0, 46, 47}),
        CONTENTS,
        CONTENTS,
    ),
    st.builds(lambda score: directory_of(b"d", Tree(score, 1), 1, 0), SCORES),
    st.just(directory_of(b"d", Empty(), 0, 0)),
)
CHILDREN = st.builds(Child, SCORES, st.integers(1, 9), st.integers(0, 9), st.binary(max_size=9))


def node_of(level: int, items: Iterable[msgspec.Struct]) -> bytes:
    return msgspec.msgpack.encode([level, [msgspec.Raw(encode(item)) for item in items]]) + b"\xc1"


def refs_in(data: bytes, kind: RefKind) -> list[Ref]:
    """What `below` finds in a node."""

    class Single:
        @staticmethod
        def get(score: Score) -> memoryview:
            return memoryview(data)

    return list(below(Single(), Ref(score_of(data), kind)))  # type: ignore[arg-type]


def agrees_about(data: bytes, kind: RefKind) -> None:
    """A node that readers take is taken, with the same references; all else is Corrupt."""
    try:
        expected = refs_in(data, kind)
    except Corrupt:
        try:
            found_in(memoryview(data), ROLE[kind])
        except Corrupt:
            return
        return
    scores, nodes = found_in(memoryview(data), ROLE[kind])
    assert sorted(scores) == sorted(ref.score for ref in expected if ref.kind is RefKind.DATA)
    assert sorted(nodes) == sorted(
        ref.score + ROLE[ref.kind] for ref in expected if ref.kind is not RefKind.DATA
    )


@given(st.lists(ITEMS, min_size=1, max_size=20))
def test_all_references_of_a_content_leaf_are_found(items: list[Item]) -> None:
    agrees_about(node_of(0, items), RefKind.CONTENT)
    assert len(refs_in(node_of(0, items), RefKind.CONTENT)) == sum(
        not isinstance(item, Hole) for item in items
    )


@given(st.lists(ENTRIES, min_size=1, max_size=10))
def test_all_references_of_a_directory_leaf_are_found(entries: list[Entry]) -> None:
    data = node_of(0, entries)
    refs_in(data, RefKind.DIRECTORY)
    agrees_about(data, RefKind.DIRECTORY)


@given(st.lists(CHILDREN, min_size=1, max_size=20), st.integers(1, 40))
def test_all_children_of_an_inner_node_are_found(children: list[Child], level: int) -> None:
    data = node_of(level, children)
    for kind in ROLE:
        assert len(refs_in(data, kind)) == len(children)
        agrees_about(data, kind)


ENTRY = file(b"f", Block(SCORE, 5))
SOUND: list[tuple[int, list[msgspec.Struct], RefKind]] = [
    (0, [Chunk(SCORE, 5)], RefKind.CONTENT),
    (0, [ENTRY], RefKind.DIRECTORY),
    (1, [Child(SCORE, 1, 5, b"")], RefKind.CONTENT),
    (1, [Child(SCORE, 1, 5, b"")], RefKind.DIRECTORY),
    (40, [Child(SCORE, 1, 5, b"")], RefKind.CONTENT),
]
UNSOUND: list[tuple[int, list[msgspec.Struct], RefKind]] = [
    (0, [], RefKind.CONTENT),
    (0, [], RefKind.DIRECTORY),
    (1, [], RefKind.CONTENT),
    (0, [ENTRY], RefKind.CONTENT),
    (0, [Chunk(SCORE, 5)], RefKind.DIRECTORY),
    (1, [Chunk(SCORE, 5)], RefKind.CONTENT),
    (0, [Child(SCORE, 1, 5, b"")], RefKind.CONTENT),
    (0, [Child(SCORE, 1, 5, b"")], RefKind.DIRECTORY),
    (41, [Child(SCORE, 1, 5, b"")], RefKind.CONTENT),
    (200, [Child(SCORE, 1, 5, b"")], RefKind.CONTENT),
    (-1, [Child(SCORE, 1, 5, b"")], RefKind.CONTENT),
    (0, [Chunk(SCORE[1:], 5)], RefKind.CONTENT),
    (0, [Chunk(SCORE + b"x", 5)], RefKind.CONTENT),
    (0, [Slice(Tree(SCORE[1:], 5), 0, 5)], RefKind.CONTENT),
    (1, [Child(SCORE[1:], 1, 5, b"")], RefKind.DIRECTORY),
    (0, [file(b"f", Block(SCORE[1:], 5))], RefKind.DIRECTORY),
    (0, [directory_of(b"d", Block(SCORE, 5), 5, 0)], RefKind.DIRECTORY),
    (0, [Chunk(SCORE, 5), ENTRY], RefKind.CONTENT),
]


@pytest.mark.parametrize(("level", "items", "kind"), SOUND)
def test_a_node_is_told_from_others(level: int, items: list[msgspec.Struct], kind: RefKind) -> None:
    scores, nodes = found_in(node_of(level, items), ROLE[kind])
    assert len(scores) + len(nodes) == 1


@pytest.mark.parametrize(("level", "items", "kind"), UNSOUND)
def test_what_is_no_node_of_its_role_is_refused(
    level: int, items: list[msgspec.Struct], kind: RefKind
) -> None:
    with pytest.raises(Corrupt):
        found_in(node_of(level, items), ROLE[kind])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\xc1",
        lambda data: data[:-1] + b"\xc2",
        lambda data: b"\x93" + data[1:-1] + b"\xc0\xc1",
        lambda data: b"\xdc\x00\x02\x01" + data[2:],
        lambda data: data[:1] + b"\xcc\x00" + data[2:],
        lambda data: bytes(70_000) + b"\xc1",
        lambda data: b"",
        lambda data: b"\x91" * 20_000 + b"\xc1",
        lambda data: b"\x92\x00" + b"\x91" * 20_000 + b"\xc1",
    ],
)
def test_other_bytes_are_refused(change: Callable[[bytes], bytes]) -> None:
    for level, items, kind in SOUND:
        with pytest.raises(Corrupt):
            found_in(change(node_of(level, items)), ROLE[kind])


@given(
    st.integers(0, 2),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
@example(0, [(1, 1)], random.Random(0))
def test_damage_never_hides_a_reference(
    which: int, changes: list[tuple[int, int]], numbers: random.Random
) -> None:
    """What readers take of a damaged node is found, or it is refused, and by Corrupt alone."""
    items: list[list[msgspec.Struct]] = [
        [Chunk(numbers.randbytes(32), 5), Hole(9), Slice(Block(numbers.randbytes(32), 9), 0, 9)],
        [ENTRY, directory_of(b"g", Tree(numbers.randbytes(32), 1), 1, 0)],
        [Child(numbers.randbytes(32), 1, 5, b"k"), Child(numbers.randbytes(32), 2, 6, b"l")],
    ]
    data = bytearray(node_of(which // 2, items[which]))
    for at, byte in changes:
        data[at % len(data)] = byte
    for kind in ROLE:
        agrees_about(bytes(data), kind)

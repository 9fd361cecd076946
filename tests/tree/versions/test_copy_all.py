"""Many versions go to another store for the price of their union, and none keeps others back."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree

import pytest
from msgspec.structs import replace

from tests.support.forging import commit_version, directory, file
from tests.support.stores import findings, new_store
from tests.support.trees import archived, noise
from ventifs.errors import Corrupt, NotStored, VentifsError
from ventifs.store import Score, Store
from ventifs.store.stats import Sizes
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.versions.catalog import Version, encode_version, version_key, versions
from ventifs.tree.versions.copy import CopiedBlocks, CopyResult, copy, copy_all
from ventifs.tree.versions.holds import held, hold
from ventifs.tree.versions.notes import comment, tag
from ventifs.tree.versions.reachable import reach_version
from ventifs.tree.versions.troubles import Troubles, fitted, troubles_of
from ventifs.tree.versions.verify import Verifier


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six versions of two names that share most of what they have."""
    home = tmp_path_factory.mktemp("made")
    top = home / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "other").mkdir()
    for number in range(8):
        (top / "a" / "b" / f"{number}").write_bytes(noise(100 + number, number))
    (top / "large").write_bytes(noise(300_000))
    new_store(home / "source")
    for night in range(3):
        (top / "a" / "b" / "0").write_bytes(noise(90, 100 + night))
        (top / "large").write_bytes(noise(300_000)[: 250_000 - night] + noise(9000, night))
        archived(home / "source", top, "n", time_ns=night)
        (top / "other" / f"{night}").write_bytes(noise(200, 200 + night))
        archived(home / "source", top, "m", time_ns=night)
    return home / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return new_store(tmp_path / "target")


def ran(
    source: Path,
    target: Path,
    *,
    repair: bool = False,
    rehearsal: bool = False,
    progress: Callable[[CopiedBlocks, Version], None] | None = None,
) -> list[CopyResult]:
    with (
        Store.open(source) as ours,
        Store.open(target, "read" if rehearsal else "write") as theirs,
    ):
        return list(
            copy_all(
                ours,
                theirs,
                versions(ours),
                repair=repair,
                rehearsal=rehearsal,
                progress=progress,
            )
        )


def scores_of(root: Path) -> dict[str, set[Score]]:
    """What each version reaches."""
    with Store.open(root) as store:
        return {
            str(version): {ref.score for ref in reach_version(store, version, set())}
            for version in versions(store)
        }


def listed(root: Path) -> list[Version]:
    with Store.open(root) as store:
        return [replace(version, record=None) for version in versions(store)]


def whole(root: Path) -> None:
    """No version of a store lacks anything."""
    with Store.open(root) as store:
        verifier = Verifier(store)
        assert [harm for version in versions(store) for harm in verifier.version(version)] == []
    assert findings(root) == []


def copy_of_store(root: Path, to: Path) -> Path:
    copytree(root, to / root.name)
    return to / root.name


def lose(root: Path, scores: set[Score]) -> None:
    with Store.open(root, "write") as store:
        for score in scores:
            store._index.drop_block(score)


def counted_reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> Counter[Score]:
    """The blocks that are read from one store from now on."""
    read: Counter[Score] = Counter()
    real = Store.get

    def get(self: Store, score: Score) -> memoryview:
        if self is store:
            read[score] += 1
        return real(self, score)

    monkeypatch.setattr(Store, "get", get)
    return read


def test_all_versions_cost_their_union(
    made: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    union = set().union(*scores_of(made).values())
    with Store.open(made) as ours, Store.open(target, "write") as theirs:
        read = counted_reads(ours, monkeypatch)
        results = list(copy_all(ours, theirs, versions(ours)))
        # A node is read to walk it, and to send it.
        assert max(read.values()) <= 2
    assert sum(result.blocks.new_blocks for result in results) == len(union)
    assert [result.error for result in results] == [None] * 6
    assert listed(target) == listed(made)
    assert [replace(result.made, record=None) for result in results if result.made] == listed(made)
    whole(target)


def test_versions_that_are_there_are_not_read(
    made: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(made, target)
    with Store.open(made) as ours, Store.open(target, "write") as theirs:
        read = counted_reads(ours, monkeypatch)
        results = list(copy_all(ours, theirs, versions(ours)))
    assert not read
    assert all(result.there and result.blocks == CopiedBlocks() for result in results)
    assert len(results) == 6


def test_a_repair_looks_at_versions_that_are_there(made: Path, target: Path) -> None:
    ran(made, target)
    lost = set(sorted(set().union(*scores_of(made).values()))[::3])
    lose(target, lost)
    results = ran(made, target, repair=True)
    assert sum(result.blocks.new_blocks for result in results) == len(lost)
    assert all(result.there for result in results)
    assert listed(target) == listed(made)
    with Store.open(target) as store:
        verifier = Verifier(store)
        assert [harm for version in versions(store) for harm in verifier.version(version)] == []


@pytest.mark.parametrize("batch", [1, 3, 4096])
@pytest.mark.parametrize("rehearsal", [False, True])
def test_damage_keeps_back_the_versions_that_it_harms_and_no_others(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, rehearsal: bool
) -> None:
    """Whichever block the source lacks, be it shared or met first by another version."""
    monkeypatch.setattr("ventifs.tree.versions.copy._BATCH", batch)
    reached = scores_of(made)
    every = sorted(set().union(*reached.values()))
    for number, score in enumerate(every[:: 1 if rehearsal else 4]):
        target = new_store(tmp_path / f"target{number}")
        with (
            Store.open(made) as ours,
            Store.open(target, "read" if rehearsal else "write") as theirs,
        ):
            lacks(ours, score, monkeypatch)
            results = list(copy_all(ours, theirs, versions(ours), rehearsal=rehearsal))
        left = {str(each.version) for each in results if each.error is not None}
        assert left == {name for name, scores in reached.items() if score in scores}
        assert all(
            isinstance(each.error, NotStored) and each.made is None
            for each in results
            if each.error is not None
        )
        if not rehearsal:
            assert {str(version) for version in listed(target)} == reached.keys() - left
            whole(target)


def lacks(store: Store, lost: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one store object lack a block."""
    get, sizes = store.get, store.sizes

    def get_(score: Score) -> memoryview:
        if score == lost:
            raise NotStored("lost")
        return get(score)

    def sizes_(scores: Iterable[Score]) -> Sizes:
        wanted = set(scores)
        if lost in wanted:
            raise NotStored("lost")
        return sizes(wanted)

    monkeypatch.setattr(store, "get", get_)
    monkeypatch.setattr(store, "sizes", sizes_)


def test_another_version_of_that_name_and_time_keeps_none_back(
    made: Path, target: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    archived(target, tmp_path / "empty", "n", time_ns=1)
    results = ran(made, target)
    [(version, error)] = [(each.version, each.error) for each in results if each.error]
    assert (version.name, version.time_ns) == ("n", 1)
    assert "has another version of that name and time" in str(error)
    assert not isinstance(error, Corrupt | NotStored)
    ours, theirs = listed(made), listed(target)
    assert [a == b for a, b in zip(ours, theirs, strict=True)] == [True] * 4 + [False, True]
    whole(target)


@pytest.mark.parametrize("stop_at", [0, 1, 3, 7, 20, 45])
def test_an_interrupted_copy_goes_on_where_it_was(
    made: Path, target: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    monkeypatch.setattr("ventifs.tree.versions.copy._BATCH", 1)
    monkeypatch.setattr("ventifs.tree.versions.copy._WAITING_MAX", 2)
    union = set().union(*scores_of(made).values())
    calls = 0

    def stop(_: CopiedBlocks, __: Version) -> None:
        nonlocal calls
        if calls == stop_at:
            raise KeyboardInterrupt
        calls += 1

    with pytest.raises(KeyboardInterrupt):
        ran(made, target, progress=stop)
    whole(target)
    before = {str(version) for version in listed(target)}
    with Store.open(target, "write") as store:  # which indexes what the interrupted copy wrote
        lacking = union - {score for score in union if store.has(score)}
    results = ran(made, target)
    assert sum(result.blocks.new_blocks for result in results) == len(lacking)
    assert {str(result.version) for result in results if result.there} == before
    assert listed(target) == listed(made)
    whole(target)


def test_versions_are_committed_some_at_a_time(
    made: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result is yielded when the version is durable, not before."""
    monkeypatch.setattr("ventifs.tree.versions.copy._WAITING_MAX", 2)
    with Store.open(made) as ours, Store.open(target, "write") as theirs:
        seen: list[Version] = []
        for result in copy_all(ours, theirs, versions(ours)):
            assert result.made is not None
            seen.append(result.made)
            with Store.open(target) as reader:
                there = versions(reader)
            assert set(map(str, seen)) <= set(map(str, there))
            assert len(there) % 2 == 0


def test_a_rehearsal_counts_what_a_copy_sends(made: Path, target: Path) -> None:
    with Store.open(made) as ours, Store.open(target, "write") as theirs:
        copy(ours, theirs, versions(ours)[0])
    with Store.open(target) as store:
        before = store.stats()
    would = ran(made, target, rehearsal=True)
    with Store.open(target) as store:
        assert store.stats() == before
    done = ran(made, target)
    assert [(each.version, each.blocks, each.there) for each in would] == [
        (each.version, each.blocks, each.there) for each in done
    ]
    assert sum(each.blocks.new_blocks for each in would) > 10


@pytest.mark.parametrize("rehearsal", [False, True])
def test_notes_follow_and_lost_blocks_with_them(
    made: Path, target: Path, tmp_path: Path, rehearsal: bool
) -> None:
    """Those of the source, whatever the target's were; holds stay."""
    source = copy_of_store(made, tmp_path)
    ran(source, target)
    with Store.open(source, "write") as store:
        comment(store, ("n", 1), "words")
        tag(store, [("n", 2), ("m", 0)], ["x"], [])
    with Store.open(target, "write") as store:
        tag(store, [("n", 2), ("m", 1)], ["y"], [])
        hold(store, [("n", 2)], now_ns=0)
    before = listed(target)
    lost = set(sorted(scores_of(made)["n@1970-01-01T00:00:00.000000001Z"])[::3])
    lose(target, lost)
    results = ran(source, target, rehearsal=rehearsal)
    assert {(each.version.name, each.version.time_ns) for each in results if each.noted} == {
        ("n", 1),
        ("n", 2),
        ("m", 0),
        ("m", 1),
    }
    assert all(each.there and each.error is None for each in results)
    assert sum(each.blocks.new_blocks for each in results) == len(lost)
    with Store.open(target) as store:
        assert [*held(store)] == [("n", 2)]
    if rehearsal:
        assert listed(target) == before
        return
    assert listed(target) == listed(source)
    with Store.open(target) as store:
        verifier = Verifier(store)
        assert [harm for version in versions(store) for harm in verifier.version(version)] == []
    assert not any(each.noted for each in ran(source, target))


def test_notes_that_moved_troubles_into_blocks_go_over(target: Path, tmp_path: Path) -> None:
    """The record of the source lists fewer troubles than the target's, of as many."""
    source = new_store(tmp_path / "troubled")
    found = Troubles(Trouble(b"%03d" % number + b"p" * 1293, "r", False) for number in range(200))
    with Store.open(source, "write") as store:
        root = directory(store, b"", [])
        bare = Version("n", 1, root, comment="")
        version = fitted(bare, found, ContentWriter(store))
        store.commit([(version_key("n", 1), encode_version(version))])
    ran(source, target)
    with Store.open(source, "write") as store:
        now = comment(store, ("n", 1), "c" * 4000)
    assert len(now.troubles) < len(version.troubles) == 200
    [result] = ran(source, target)
    assert (result.there, result.noted, result.error) == (True, True, None)
    with Store.open(target) as store:
        [copied] = versions(store)
        assert replace(copied, record=None) == replace(now, record=None)
        assert list(troubles_of(store, copied)) == list(found)


def test_other_troubles_are_of_another_version(target: Path, tmp_path: Path) -> None:
    source = new_store(tmp_path / "troubled")
    for root, troubles in ((source, ()), (target, ((b"p", "r", False),))):
        with Store.open(root, "write") as store:
            version = Version("n", 1, directory(store, b"", []), troubles=troubles)
            store.commit([(version_key("n", 1), encode_version(version))])
    [result] = ran(source, target)
    assert "another version" in str(result.error)


def test_a_damaged_record_of_the_target_keeps_none_back(made: Path, target: Path) -> None:
    with Store.open(target, "write") as store:
        store.commit([(version_key("n", 1), b"nothing")])
    results = ran(made, target)
    [error] = [each.error for each in results if each.error]
    assert "has a damaged record (" in str(error)
    assert not isinstance(error, Corrupt)
    assert sum(each.made is not None for each in results) == 5


def test_what_another_process_commits_meanwhile_is_noticed(
    made: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version and the same one of a name and time, after the first look."""
    monkeypatch.setattr("ventifs.tree.versions.copy._BATCH", 1)
    (tmp_path / "empty").mkdir()
    done = False

    def meanwhile(_: CopiedBlocks, version: Version) -> None:
        nonlocal done
        if done or str(version) != str(last):
            return
        done = True
        archived(target, tmp_path / "empty", "n", time_ns=0)
        with Store.open(made) as ours, Store.open(target, "write") as theirs:
            copy(ours, theirs, versions(ours)[0])

    with Store.open(made) as ours:
        first, *_, last = versions(ours)
    results = {str(each.version): each for each in ran(made, target, progress=meanwhile)}
    refused = results["n@1970-01-01T00:00:00Z"]
    assert refused.made is None
    assert "another version" in str(refused.error)
    same = results[str(first)]
    assert same.there
    assert same.made is not None
    assert len(listed(target)) == 6
    whole(target)


def test_errors_of_the_target_end_the_copy(
    made: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not taken for damage of a version."""
    with ExitStack() as stack:
        ours = stack.enter_context(Store.open(made))
        theirs = stack.enter_context(Store.open(target, "write"))

        def put(block: bytes, *, node: bool = False) -> tuple[Score, bool]:
            raise Corrupt(f"the target's, {len(block)} bytes, {node}")

        monkeypatch.setattr(theirs, "put", put)
        with pytest.raises(Corrupt, match="the target's"):
            list(copy_all(ours, theirs, versions(ours)))
        monkeypatch.undo()
    assert listed(target) == []


def test_a_name_that_cannot_be(made: Path, target: Path) -> None:
    with (
        Store.open(made) as ours,
        Store.open(target, "write") as theirs,
        pytest.raises(VentifsError, match="cannot name versions"),
    ):
        copy_all(ours, theirs, versions(ours), name="a/b")


def test_holds_of_versions_that_went_do_not_hold_what_is_copied(made: Path, target: Path) -> None:
    """A program that does not know holds forgot a held version, and left its hold."""
    ran(made, target)
    with Store.open(target, "write") as store:
        first, *_ = versions(store)
        assert first.record is not None
        hold(store, [(first.name, first.time_ns)], now_ns=0)
        store.commit(deletes=[first.record])
    ran(made, target)
    with Store.open(target) as store:
        assert len(versions(store)) == 6
        assert held(store) == {}


@pytest.fixture
def shared_in_two_roles(tmp_path: Path) -> Path:
    """A node whose bytes are also a file's, in another version; below the node is a file."""
    root = new_store(tmp_path / "roles")
    with Store.open(root, "write") as store:
        content = ContentWriter(store).write_whole(noise(5000))
        inner = directory(store, b"in", [file(b"f", content)])
        [node] = [ref.score for ref in reach_version(store, _of(inner), set())][-1:]
        disguised = ContentWriter(store).write_whole(bytes(store.get(node)))
        commit_version(store, directory(store, b"", [file(b"g", disguised)]), time_ns=1)
        commit_version(store, directory(store, b"", [inner]), time_ns=2)
    return root


def _of(root: object) -> Version:
    return Version("x", 0, root)  # type: ignore[arg-type]


def test_a_node_that_went_as_data_is_walked_nevertheless(
    shared_in_two_roles: Path, target: Path
) -> None:
    results = ran(shared_in_two_roles, target)
    assert [each.error for each in results] == [None, None]
    assert version_key("n", 2) in {
        each.made.record.key for each in results if each.made and each.made.record
    }
    whole(target)

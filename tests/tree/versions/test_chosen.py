"""Which versions the texts of one command mean together."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forging import commit_version, directory
from tests.support.stores import new_store
from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.tree.versions.catalog import NoSuchVersion, version_key
from ventifs.tree.versions.chosen import chosen, is_pattern

DAY_NS = 86_400 * 10**9
ALL = ["db", "db", "web1", "web1", "web2"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """web1 and db of two days, web2 of the first."""
    with Store.open(new_store(tmp_path_factory.mktemp("s") / "store"), "write") as opened:
        root = directory(opened, b"", [])
        for name, days in (("web1", 2), ("db", 2), ("web2", 1)):
            for day in range(days):
                commit_version(opened, root, name, day * DAY_NS)
        yield opened


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("", "db@01 db@02 web1@01 web1@02 web2@01"),
        ("*", "db@01 db@02 web1@01 web1@02 web2@01"),
        ("web1", "web1@01 web1@02"),
        ("web*", "web1@01 web1@02 web2@01"),
        ("web[2-9]", "web2@01"),
        ("web[!2]", "web1@01 web1@02"),
        ("?b", "db@01 db@02"),
        ("WEB* d*", None),
        ("web*@latest", "web1@02 web2@01"),
        ("*@~1", "db@01 web1@01"),
        ("*@1970-01-02", "db@02 web1@02"),
        ("web1@~1 web*", "web1@01 web1@02 web2@01"),
        ("web2@latest db@~1", "db@01 web2@01"),
        ("web1 web1@latest web?", "web1@01 web1@02 web2@01"),
        ("*@~2", None),
        ("x*", None),
        ("web1 x", None),
        ("web2@~1", None),
    ],
)
def test_what_texts_mean(store: Store, texts: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(NoSuchVersion):
            chosen(store, texts.split())
        return
    found, unreadable = chosen(store, texts.split())
    assert [f"{each.name}@{each.when[8:10]}" for each in found] == expected.split()
    assert unreadable == []


@pytest.mark.parametrize("text", ["web*@x", "*@~x", "a/b", "web1:/etc", "-x", "score:*"])
def test_what_follows_no_grammar_is_refused(store: Store, text: str) -> None:
    with pytest.raises(VentifsError):
        chosen(store, [text])


def test_what_is_a_pattern() -> None:
    assert all(map(is_pattern, ["*", "web?", "[ab]", "we*@latest"]))
    assert not any(map(is_pattern, ["web", "web@2026-01-01", "score:[0", "score:12345678", "w@*"]))


def test_nothing_is_all_of_an_empty_store(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "store")) as store:
        assert chosen(store, []) == ([], [])
        with pytest.raises(NoSuchVersion, match="'ventifs versions' lists them"):
            chosen(store, ["*"])


def test_a_damaged_record_stands_in_the_way_of_its_own_name_alone(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "store"), "write") as store:
        root = directory(store, b"", [])
        commit_version(store, root, "good", 1)
        store.commit([(version_key("bad", 1), b"nothing")])
        for texts in ([], ["*"], ["g*"]):
            found, [left] = chosen(store, texts)
            assert [each.name for each in found] == ["good"]
            assert isinstance(left.error, Corrupt)
            assert "bad" in left.key
        assert chosen(store, ["good"])[1] == []
        with pytest.raises(Corrupt):
            chosen(store, ["bad"])

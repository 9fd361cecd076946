"""The store's lock: shared by those who write, alone for rebuilds, gone with its holder."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from ventifs.errors import Busy, VentifsError
from ventifs.store.lock import store_lock


def test_writers_share_the_lock(tmp_path: Path) -> None:
    with store_lock(tmp_path, alone=False), store_lock(tmp_path, alone=False):
        pass


@pytest.mark.parametrize(
    ("held", "wanted", "who"),
    [
        (False, True, "another ventifs is writing"),
        (True, False, "a rebuild, repair or upgrade is running"),
        (True, True, "is in use"),
    ],
)
def test_a_lock_held_alone_is_held_alone(
    tmp_path: Path, held: bool, wanted: bool, who: str
) -> None:
    with store_lock(tmp_path, alone=held):
        with pytest.raises(Busy, match=who) as caught, store_lock(tmp_path, alone=wanted):
            pytest.fail("both hold it")
        assert str(caught.value).startswith(f"{tmp_path}: ")


def test_a_lock_is_let_go_of_however_its_holder_leaves(tmp_path: Path) -> None:
    with pytest.raises(KeyError), store_lock(tmp_path, alone=True):
        raise KeyError
    with ExitStack() as stack:
        stack.enter_context(store_lock(tmp_path, alone=True))
    with store_lock(tmp_path, alone=True):
        pass


def test_a_lock_that_cannot_be_opened_names_its_path(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(VentifsError, match=rf"{tmp_path}/lock: is a directory"),
        store_lock(tmp_path, alone=False),
    ):
        pytest.fail("there is no lock to hold")

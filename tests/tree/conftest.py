"""What nearly every test of trees needs: a store, and where its source is to be."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stores import new_store
from tests.support.trees import remove


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A new store."""
    return new_store(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """Where a test may make a tree of any kind; not there yet."""
    yield tmp_path / "source"
    remove(tmp_path / "source")

"""Stores of these tests lie in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inmemory import memory_or


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory in memory; after a failure its content is in pytest's."""
    yield from memory_or(tmp_path, lambda: request.session.testsfailed)

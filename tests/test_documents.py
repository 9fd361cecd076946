"""Documents for developers name what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("[tv]*/**/*.py"))]


_PERFORMANCE = ROOT / "docs" / "performance.md"
DOCUMENTS = ["ARCHITECTURE.md", "CONTRIBUTING.md", "ventifs/serving/DESIGN.md"]
_ROOM = r"`((?:cli|tree|image|vfs|net|serving|ninep|tests|tools)/[\w/]*\w)`"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_and_rooms_that_are_named_exist(document: str) -> None:
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / document).read_text())
    assert named
    for name in named:
        assert any(f"/{path}".endswith(f"/{name}") for path in FILES), name
    rooms = re.findall(_ROOM, (ROOT / document).read_text())
    for room in rooms:
        assert (ROOT / room).exists() or (ROOT / "ventifs" / room).exists(), room


def test_what_figures_are_of_is_there() -> None:
    """`- **FILE, NAME**: ...`, for each decision that was measured."""
    entries = re.findall(r"^- \*\*(\S+\.py), ([^*]+)\*\*", _PERFORMANCE.read_text(), re.MULTILINE)
    assert len(entries) > 50
    for file, place in entries:
        words = set(re.findall(r"\w+", (ROOT / file).read_text()))
        names = [name for name in re.findall(r"\w+", place) if name.strip("_")[:1].isupper()]
        assert words.issuperset(names), (file, place)


def test_commits_that_blame_passes_over_are_named_whole() -> None:
    lines = (ROOT / ".git-blame-ignore-revs").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[0-9a-f]{40}", line) for line in lines)

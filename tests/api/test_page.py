"""The examples of docs/api.md run, from top to bottom, and print what the page says."""

import io
import os
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import ventifs

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def guest(root: Path) -> None:
    """A small root."""
    for name in ("etc", "var", "usr"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    for name, mode, text in [
        ("hostname", 0o640, "web01\n"),
        ("fstab", 0o644, "/dev/vda1 / ext4\n/dev/vdb1 /srv ext4\n"),
    ]:
        (root / "etc" / name).write_text(text)
        (root / "etc" / name).chmod(mode)
    with (root / "var" / "disk").open("wb") as disk:
        disk.write(b"x" * 8192)
        disk.truncate(8 << 20)


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guest(tmp_path / "guests" / "web01")
    names: dict[str, object] = {}
    page = PAGE.read_text()
    examples = list(EXAMPLE.finditer(page))
    assert len(examples) == page.count("```python") > 10
    for found in examples:
        line = page.count("\n", 0, found.start()) + 1
        code = compile("\n" * line + found[1], os.fspath(PAGE), "exec")
        with redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        assert printed.getvalue() == (found[2] or ""), f"line {line}"


def test_the_page_names_what_is_exported() -> None:
    page = PAGE.read_text()
    calls = set(re.findall(r"ventifs\.([A-Za-z_]+)", page))
    assert calls - {"__all__"} <= set(ventifs.__all__)

"""A directory of very many files: it takes its time, and no more memory than any other."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commanding import SCRIPT, parsed, run
from tests.support.memory import peak_memory
from tests.support.sizes import LONG
from tests.support.trees import remove

FILES = 1_000_000 if LONG else 250_000
MEMORY_MAX = 300 << 20

pytestmark = pytest.mark.slow


@pytest.fixture
def home() -> Iterator[Path]:
    """A store and a directory of empty files, all in memory."""
    status = os.statvfs("/dev/shm")
    if status.f_favail < FILES + 10_000 or shutil.disk_usage("/dev/shm").free < 2 << 30:
        pytest.skip("/dev/shm has no room for so many files")
    top = Path(tempfile.mkdtemp(dir="/dev/shm"))
    (top / "many").mkdir()
    fd = os.open(top / "many", os.O_RDONLY)
    for number in range(FILES):
        os.mknod(f"file number {number}", 0o100644, dir_fd=fd)
    os.close(fd)
    run(top, "init", "--store", "s")
    yield top
    remove(top)


def measured(home: Path, *words: str) -> int:
    """The peak memory of an archive run."""
    child = subprocess.Popen(
        [SCRIPT, "archive", "many", "--name", "m", "--store", "s", *words],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    memory = peak_memory(child)
    _, err = child.communicate()
    assert child.returncode == 0, err
    print(f"archive {' '.join(words)}: {memory >> 20} MiB")
    return memory


def test_very_many_files_in_one_directory(home: Path) -> None:
    memory = [measured(home, "--jobs", "2")]
    (home / "many" / f"file number {FILES // 2}").unlink()
    (home / "many" / "file number 77").write_bytes(b"another")
    memory.append(measured(home, "--jobs", "2"))
    memory.append(measured(home, "--jobs", "1", "--no-cache"))
    first, second, third = parsed(home, "versions", "--store", "s")
    assert first["score"] != second["score"] == third["score"]
    assert (first["paths"], second["paths"]) == (FILES, FILES - 1)
    assert (first["troubles"], second["troubles"]) == ([], [])
    assert 0 < second["new_bytes"] < 100_000
    assert max(memory) < MEMORY_MAX, [size >> 20 for size in memory]

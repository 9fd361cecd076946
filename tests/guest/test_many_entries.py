"""Trees of very many entries, walked in a guest."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.manyfiles import wide_version
from tests.support.segment import HOST
from tests.support.serving import Exported, archive
from tests.support.trees import remove
from tests.support.uml import Uml

DIRECTORIES = 300
FILES = 1000  # in each
ENTRIES = DIRECTORIES * (FILES + 1)
WALK_S = 1800  # after which a guest that looks at many files is taken to hang

pytestmark = pytest.mark.slow


def test_find_sees_all_of_300_000_entries(guest: Uml, exported: Exported) -> None:
    top = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        for number in range(DIRECTORIES):
            (top / f"directory {number}").mkdir()
            fd = os.open(top / f"directory {number}", os.O_RDONLY)
            for name in range(FILES):
                os.mknod(f"{number}.{name}", 0o100644, dir_fd=fd)
            os.close(fd)
        version = archive(exported.store, top, "many")
    finally:
        remove(top)
    with guest.mounted("many", HOST, exported.options(version, cache="loose")):
        said = guest.succeed("find many | wc -l; find many -type f -name '*.7' | sort | md5sum")
        names = sorted(f"many/directory {number}/{number}.7" for number in range(DIRECTORIES))
        told = guest.succeed("md5sum <<'END'\n" + "\n".join(names) + "\nEND")
        assert said.split("\n", 1) == [str(ENTRIES + 1), told]
        # A directory of its own name, and a file at its end: nothing is listed twice or missing.
        assert guest.succeed("ls -U 'many/directory 299' | sort -u | wc -l") == f"{FILES}\n"


def test_find_looks_at_30_000_files_and_holds_them(guest: Uml, exported: Exported) -> None:
    """A fid of each, in the memory that a client has by default, which is enough for a million."""
    assert processes.run(wide_version, exported.store, 30, 1000, "wide") == 0
    with guest.mounted("wide", HOST, exported.options("wide@latest", cache="loose")):
        look = "find wide -type f -size -2 -links 1 -newermt 1960-01-01 | wc -l"
        assert guest.succeed(look, patience_s=WALK_S) == "30000\n"
        # Then they are given back, and what comes next is served as before.
        guest.succeed("echo 2 >/proc/sys/vm/drop_caches", patience_s=WALK_S)
        assert guest.succeed("ls wide | wc -l") == "30\n"

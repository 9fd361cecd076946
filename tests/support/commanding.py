"""Running the installed command as a person or a script would."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.patience import PATIENCE_S as PATIENCE_S

SCRIPT = Path(sys.executable).parent / "ventifs"


def run(
    home: Path, *words: str | bytes | Path, expected: int = 0
) -> "subprocess.CompletedProcess[bytes]":
    """Run `ventifs` in a directory that also holds the user's data."""
    kept = {name: value for name, value in os.environ.items() if name != "VENTIFS_STORE"}
    done = subprocess.run(
        [SCRIPT, *words],
        env={**kept, "XDG_DATA_HOME": str(home / "data")},
        cwd=home,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == expected, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def parsed(home: Path, *words: str | bytes | Path) -> Any:
    """The parsed output of a command with `--json`."""
    return json.loads(run(home, *words, "--json").stdout)


def copy_of(made: Path, to: Path) -> Path:
    """A copy of a home that a module made once, for one test to change."""
    subprocess.run(["cp", "-a", f"{made}/.", to], check=True)
    return to

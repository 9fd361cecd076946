"""Running the installed command as a person or a script would."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.support import forked
from tests.support.forked import SCRIPT as SCRIPT
from tests.support.patience import PATIENCE_S as PATIENCE_S


def run(
    home: Path, *words: str | bytes | Path, expected: int = 0
) -> "subprocess.CompletedProcess[bytes]":
    """Run `ventifs` in a directory that also holds the user's data."""
    kept = {name: value for name, value in os.environ.items() if name != "VENTIFS_STORE"}
    env = {**kept, "XDG_DATA_HOME": str(home / "data")}
    done = forked.run(words, env=env, cwd=home, timeout_s=PATIENCE_S)
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

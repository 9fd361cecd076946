"""Partition tables made by sfdisk and sgdisk, and reports of sfdisk and blkid on disks."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


def run(*command: str | Path, text: str = "", check: bool = True) -> str:
    """Run a tool; return its output. Skips the test if the tool is not installed."""
    if shutil.which(str(command[0]), path=_PATH) is None:
        pytest.skip(f"{command[0]} is not installed")
    environment = {**os.environ, "PATH": _PATH, "LC_ALL": "C"}
    done = subprocess.run(
        [str(part) for part in command],
        input=text,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def made(path: Path, size: int, script: str, *options: str) -> Path:
    """Make a sparse disk with the table that sfdisk makes from a script."""
    with open(path, "wb") as file:
        file.truncate(size)
    run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", *options, path, text=script)
    return path


def said(path: Path, *options: str) -> dict[str, Any]:
    """The table of a disk as sfdisk reports it."""
    found: dict[str, Any] = json.loads(run("sfdisk", *options, "--json", path))["partitiontable"]
    return found


def blkid(path: Path, offset: int = 0, size: int | None = None) -> dict[str, str]:
    """The facts that blkid finds about a file system, by blkid's names."""
    where = ["-O", str(offset), *([] if size is None else ["-S", str(size)])]
    text = run("blkid", "-p", "-o", "export", *where, path, check=False)
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

"""Repositories of Debian's borg, of empty archives with chosen times, and what it would prune."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

# One commit for all: `borg create` makes one for each, which takes a third of a second.
_MAKE = """
import sys
from datetime import datetime, timezone
from borg.archive import Archive
from borg.cache import Cache
from borg.helpers import Manifest
from borg.logger import setup_logging
from borg.repository import Repository

setup_logging(level="error")
with Repository(sys.argv[1], exclusive=True) as repository:
    manifest, key = Manifest.load(repository, (Manifest.Operation.WRITE,))
    with Cache(repository, key, manifest) as cache:
        ends = repository.commit, manifest.write, cache.commit
        repository.commit = manifest.write = cache.commit = lambda *given, **named: None
        for second in map(int, sys.stdin):
            made = Archive(repository, key, manifest, f"at{second}", cache, create=True)
            made.save(timestamp=datetime.fromtimestamp(second, timezone.utc))
        repository.commit, manifest.write, cache.commit = ends
        manifest.write()
        repository.commit(compact=False)
        cache.commit()
"""


def why_no_borg() -> str:
    """Why no borg 1.2 can be asked; empty if one can."""
    if shutil.which("borg") is None:
        return "needs Debian's borgbackup"
    version = subprocess.run(["borg", "--version"], capture_output=True, text=True, check=False)
    if not version.stdout.startswith("borg 1.2."):
        return f"needs borg 1.2, not {version.stdout.strip() or version.stderr.strip()}"
    return ""


class BorgRepository:
    """A repository in a directory; its archives are known by their seconds since 1970."""

    def __init__(self, home: Path, seconds: Iterable[int], zone: str) -> None:
        """Make one, with an archive of each time; borg works in that zone."""
        self._path = home / "repository"
        self._environ = {
            **os.environ,
            "HOME": str(home),
            "TZ": zone,
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        self._run("borg", "init", "--encryption", "none", str(self._path))
        with open(shutil.which("borg") or "", "rb") as file:
            interpreter = file.readline().decode().removeprefix("#!").split()
        lines = "".join(f"{second}\n" for second in seconds)
        self._run(*interpreter, "-c", _MAKE, str(self._path), text=lines)
        self._run("borg", "check", str(self._path))

    def kept(self, options: str) -> set[int]:
        """The archives that `borg prune` keeps."""
        told = self._run("borg", "prune", "--dry-run", "--list", *options.split(), str(self._path))
        return set(map(int, re.findall(r"^Keeping archive .*: +at(\d+) ", told, re.MULTILINE)))

    def _run(self, *command: str, text: str = "") -> str:
        done = subprocess.run(
            command,
            input=text,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

"""Compares owners, groups and modes of a store's files with what they should be."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ventifs.store.permissions import PRIVATE, Access

GROUP = 60_321  # an unused group
KINDS = {
    "private": PRIVATE,
    "shared": Access(0o2770, GROUP),
    "readers": Access(0o2750, GROUP),
}
_FILES = {"private": 0o600, "shared": 0o660, "readers": 0o640}
UMASKS = (0o000, 0o022, 0o077, 0o777)


@contextmanager
def masked(umask: int) -> Iterator[None]:
    """Run with a umask."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def expected(path: Path, kind: str) -> int:
    """The mode of a path in a store of a kind."""
    if path.is_dir():
        return 0o2770 if path.name == "leases" and kind == "readers" else KINDS[kind].mode
    if (path.name == "lock.mdb" or path.suffix == ".lease") and kind == "readers":
        return 0o660
    return _FILES[kind]


def wrong(root: Path, kind: str) -> dict[str, str]:
    """The paths of a store with a wrong mode, group or owner, each with what it has."""
    top, found = root.stat(), {}
    gid = KINDS[kind].gid if KINDS[kind].gid is not None else top.st_gid
    for path in (root, *root.rglob("*")):
        status = path.lstat()
        if (stat.S_IMODE(status.st_mode), status.st_gid, status.st_uid) != (
            expected(path, kind),
            gid,
            top.st_uid,
        ):
            found[str(path.relative_to(root))] = (
                f"{stat.S_IMODE(status.st_mode):o} {status.st_uid}:{status.st_gid}"
            )
    return found


def names(root: Path) -> set[str]:
    """The names of all files of a store, with ids replaced by `ID`."""
    return {path.name if len(path.stem) < 32 else f"ID{path.suffix}" for path in root.rglob("*")}

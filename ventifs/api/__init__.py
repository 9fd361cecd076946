"""The public Python API: archives, versions, paths in them, and file objects.

`ventifs` itself exports these names; docs/api.md shows them by task. The command line uses them.
Always: versions and paths stand for what does not change, and only methods of `Archive` change a
store. What a single operation needs is imported by that operation, so that a listing starts fast.

This package must not know printing and options; `serving.py` alone runs tasks, in its own thread.
"""

from ventifs.api.archive import Archive, init, open  # noqa: A004
from ventifs.api.path import ArchivedPath, NotADirectory, NotARegularFile
from ventifs.api.reclaiming import reclaim
from ventifs.api.results import (
    Added,
    Copied,
    CopiedAll,
    ForgottenVersion,
    HeldAlone,
    NotCopied,
    Thinned,
)
from ventifs.api.version import ArchivedVersion
from ventifs.errors import Busy, Corrupt, NoSpace, NotStored, VentifsError
from ventifs.tree.objects.directory import NoSuchPath
from ventifs.tree.reclaim.results import Reclaimed, ReclaimObserver, ReclaimPlan
from ventifs.tree.versions.catalog import NoSuchVersion

__all__ = [
    "Added",
    "Archive",
    "ArchivedPath",
    "ArchivedVersion",
    "Busy",
    "Copied",
    "CopiedAll",
    "Corrupt",
    "ForgottenVersion",
    "HeldAlone",
    "NoSpace",
    "NoSuchPath",
    "NoSuchVersion",
    "NotADirectory",
    "NotARegularFile",
    "NotCopied",
    "NotStored",
    "ReclaimObserver",
    "ReclaimPlan",
    "Reclaimed",
    "Thinned",
    "VentifsError",
    "init",
    "open",
    "reclaim",
]

"""Restores by several processes for tests, in a child that has opened no store before."""

import json
import os
import signal
from pathlib import Path

from tests.support import processes
from ventifs.store import Store
from ventifs.tree.process_pool import Workers
from ventifs.tree.restore.file_maker import making
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.versions.catalog import find_version


def restored_by(store: Path, name: str, target: Path, jobs: int, *, overwrite: bool = False) -> str:
    """Restore the latest version of a name; return what failed or was left out, as text."""
    report = target.with_name(target.name + ".json")
    assert processes.run(_restore, store, name, target, jobs, overwrite, report) == 0
    return report.read_text()


def _restore(
    store: Path, name: str, target: Path, jobs: int, overwrite: bool, report: Path
) -> None:
    with (
        Workers(jobs, lambda *_: making(store, overwrite=overwrite)) as pool,
        Store.open(store) as opened,
    ):
        root = find_version(opened, name).root
        done = Restorer(opened, pool=pool, overwrite=overwrite).run(root, target)
    troubles = [(repr(path), reason) for path, reason in (*done.failed, *done.left)]
    report.write_text(json.dumps(troubles) if troubles else "")


def restore_until_told(store: Path, name: str, target: Path, pids: Path, overwrite: bool) -> None:
    """Restore by two processes, write their pids to `pids`, and end at SIGINT or SIGTERM."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    with (
        Workers(2, lambda *_: making(store, overwrite=overwrite)) as pool,
        Store.open(store) as opened,
    ):
        pids.write_text(Path(f"/proc/self/task/{os.getpid()}/children").read_text())
        root = find_version(opened, name).root
        Restorer(opened, pool=pool, overwrite=overwrite).run(root, target)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt

"""Checking a store, and repairing what can be repaired.

The part of a check that reads the index runs in a child process, because a damaged LMDB file can
kill its reader; a child that dies is itself a finding. A repair never changes undamaged blocks. It
makes a new index that leaves out damaged blocks, so that the next archive stores them again.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import astuple

from ventifs.errors import VentifsError
from ventifs.store.arena import Arena
from ventifs.store.arena_state import ArenaProgress
from ventifs.store.arenas import Arenas
from ventifs.store.audit import audit
from ventifs.store.files import Files, readable_errors
from ventifs.store.findings import Finding, Report, Summary
from ventifs.store.header import (
    StoreHeader,
    header_under_lock,
    read_header,
    require_writable,
)
from ventifs.store.index import Index
from ventifs.store.journal import CommitCounters, Record
from ventifs.store.lmdb_environment import IndexDamaged, IndexMissing
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index
from ventifs.store.score import Score
from ventifs.store.store import Store

_STRUCTURE = {"header", "directory", "trailer", "catalog", "commit", "gap", "arena"}
_SIGNAL_NOTE = "reading it killed the reader (signal {}): it is damaged"


@dataclass(slots=True)
class Repair:
    """What a repair did.

    Attributes:
        lost: damaged blocks without another copy. The index no longer lists them, so they are
            stored again when they are next archived.
        healed: damaged blocks that have another copy, which is used now.
        rescued: number of records, deletions and drops that only the index still knew; they are
            written to an arena again.
    """

    lost: list[str] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    rescued: int = 0


def check(
    root: Path, *, read_data: bool = False, jobs: int = 2, progress: ArenaProgress | None = None
) -> Report:
    """Check a store and its index; changes nothing.

    Args:
        root: the store's directory.
        read_data: verify every byte against its score, not just structure.
        jobs: number of arenas checked in parallel.
        progress: called with (bytes checked, bytes in all).

    Raises:
        NotAStore, Corrupt, Unsupported: see `header.read_header`.
    """
    header = read_header(root)
    options = {"read_data": read_data, "jobs": jobs}
    code, report, reason = _in_child(root, options, progress)
    if report is not None:
        return report
    report = audit(root, header, index=None, read_data=read_data, jobs=jobs, progress=progress)
    reason = _SIGNAL_NOTE.format(-code) if code < 0 else reason
    report.findings.append(Finding("index", reason))
    report.index_read = False
    return report


def _in_child(
    root: Path, options: dict[str, bool | int], progress: ArenaProgress | None
) -> tuple[int, Report | None, str]:
    """Audit with the index in a child; return (exit code, report or None, reason of a failure)."""
    command = [sys.executable, "-P", "-m", "ventifs.store.check", str(root), json.dumps(options)]
    with (
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child,
        _not_outliving(child),
    ):
        report, reason = None, ""
        assert child.stdout is not None
        assert child.stderr is not None
        for line in child.stdout:
            message = json.loads(line)
            if "progress" in message:
                if progress is not None:
                    progress(*message["progress"])
            elif "error" in message:
                raise VentifsError(message["error"])
            elif "reason" in message:
                reason = message["reason"]
            else:
                report = _decoded(message)
        errors = child.stderr.read().decode(errors="replace").strip()
    if child.returncode == 0:
        return 0, report, reason
    return child.returncode, None, reason or errors.splitlines()[-1:][0] if errors else reason


@contextmanager
def _not_outliving(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Kill the child on any exception, so that an interrupted check stops at once."""
    try:
        yield
    except BaseException:
        child.kill()
        raise


def _encoded(report: Report) -> dict[str, object]:
    return {
        "findings": [asdict(finding) for finding in report.findings],
        "summary": asdict(report.summary),
        "rescued": _encoded_records(report.rescued),
        "forgotten": _encoded_records(report.forgotten),
        "lost_drops": {arena.hex(): astuple(sums) for arena, sums in report.lost_drops.items()},
    }


def _encoded_records(records: list[Record]) -> list[list[str]]:
    return [[part.hex() for part in (record.key, record.id, record.value)] for record in records]


def _decoded(message: dict[str, Any]) -> Report:
    return Report(
        findings=[Finding(**finding) for finding in message["findings"]],
        summary=Summary(**message["summary"]),
        rescued=[Record(*map(bytes.fromhex, record)) for record in message["rescued"]],
        forgotten=[Record(*map(bytes.fromhex, record)) for record in message["forgotten"]],
        lost_drops={
            bytes.fromhex(arena): CommitCounters(*sums)
            for arena, sums in message["lost_drops"].items()
        },
    )


def repair(
    root: Path,
    report: Report,
    progress: ArenaProgress | None = None,
    files: Files | None = None,
    *,
    wait_s: float = 0,
) -> Repair:
    """Make a new index without the damaged blocks; keeps every record that still has a copy.

    Arenas whose structure is damaged are made whole again; undamaged blocks are never changed.

    Args:
        root: the store's directory.
        report: the result of a check with `read_data`.
        progress: called with (bytes of arenas read, bytes in all).
        files: for tests.
        wait_s: how many seconds to wait for others that use the store.

    Raises:
        Busy: while another process writes to the store.
        NoSpace, VentifsError: the old index is still in place, unless the new one had replaced it.
    """
    files = files or Files()
    header = read_header(root)
    require_writable(root, header)
    damaged = [
        finding
        for finding in report.findings
        if finding.what == "block" and finding.score and not finding.harmless
    ]
    with store_lock(root, alone=True, wait_s=wait_s):
        header = header_under_lock(root, header)
        _unseal(root, header, report, files)
        rebuild_index(root, header, files, progress, dropped=report.lost_drops)
        _drop(root, header, damaged)
    done = Repair()
    with Store.open(root, "write", files=files, wait_s=wait_s) as store:
        scores = sorted({Score(bytes.fromhex(finding.score or "")) for finding in damaged})
        for score, there in zip(scores, store.has_many(scores), strict=True):
            (done.healed if there else done.lost).append(score.hex())
        if report.rescued or report.forgotten or report.lost_drops:
            store.commit(report.rescued, report.forgotten, drops=report.lost_drops)
            done.rescued = len(report.rescued) + len(report.forgotten) + len(report.lost_drops)
    return done


def _unseal(root: Path, header: StoreHeader, report: Report, files: Files) -> None:
    """Move sealed arenas whose structure is damaged to `open/`, cutting off directory and trailer.

    There the rebuild makes them whole: it writes a damaged header anew, cuts off what is left of
    directory and trailer, and turns damage into gaps. It first copies what it overwrites to a file
    beside the arena. A writer seals the arenas again.
    """
    arenas = Arenas(root, header.store_id)
    for arena in {finding.arena for finding in report.findings if finding.what in _STRUCTURE}:
        arena_id = bytes.fromhex(arena or "")
        sealed, unsealed = arenas.sealed_path(arena_id), arenas.open_path(arena_id)
        if sealed.exists():
            with readable_errors(sealed):
                files.rename(sealed, unsealed)
                opened = Arena.open(unsealed, write=True)
                files.truncate(opened.fd, opened.clumps_end())
                files.sync(opened.fd)
                files.sync_directory(arenas.open_directory)


def _drop(root: Path, header: StoreHeader, damaged: list[Finding]) -> None:
    """Remove entries of blocks that do not match their scores in clumps with a valid checksum."""
    index = Index(root / "index", header.store_id)
    try:
        for finding in damaged:
            score = Score(bytes.fromhex(finding.score or ""))
            place = index.locate(score)
            if place and (place.arena.hex(), place.offset) == (finding.arena, finding.offset):
                index.drop_block(score)
    finally:
        index.close()


def _child_main(root: Path, options: dict[str, int], say: Callable[[object], None]) -> int:
    header = read_header(root)
    try:
        index = Index(root / "index", header.store_id)
        report = audit(
            root,
            header,
            index=index,
            read_data=bool(options["read_data"]),
            jobs=options["jobs"],
            progress=lambda done, total: say({"progress": [done, total]}),
        )
    except IndexMissing:
        say({"reason": "is missing"})
        return 3
    except IndexDamaged as error:
        say({"reason": str(error)})
        return 3
    except VentifsError as error:
        say({"error": str(error)})
        return 4
    say(_encoded(report))
    return 0


def _say(message: object) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(_child_main(Path(sys.argv[1]), json.loads(sys.argv[2]), _say))

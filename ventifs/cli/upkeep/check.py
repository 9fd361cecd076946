"""`ventifs check` and `ventifs rebuild-index`."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from ventifs.cli.formatting import count, exact, size
from ventifs.cli.output import echo, print_json
from ventifs.cli.progress import ByteProgress, EntryProgress
from ventifs.cli.store_option import json_option, store_option, wait_option
from ventifs.store import Score, Store
from ventifs.store.arena_audit import LACKS_BLOCK
from ventifs.store.check import Repair
from ventifs.store.check import check as check_store
from ventifs.store.check import repair as repair_store
from ventifs.store.exposure import exposed, odd_line, odd_modes
from ventifs.store.files import Files
from ventifs.store.findings import Finding, Report
from ventifs.store.header import (
    RECLAIMED,
    header_under_lock,
    read_header,
    require_writable,
)
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index as rebuild
from ventifs.store.store import warn_if_exposed
from ventifs.text import printable, shell_word
from ventifs.tree.versions.catalog import versions
from ventifs.tree.versions.forgotten import forgotten
from ventifs.tree.versions.verify import PATHS_MAX, Harm, Verifier

_SHOWN_MAX = 1000


@click.command(short_help="Verify the store; mend it with --repair.")
@store_option
@wait_option
@json_option
@click.option("--read-data", is_flag=True, help="Read every byte and hash every block.")
@click.option(
    "--repair",
    is_flag=True,
    help="Mend what can be mended; reads all data, and wants the store to itself.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    metavar="N",
    show_default=True,
    help="Arenas side by side.",
)
def check(
    store: Path, *, wait_s: float | None, as_json: bool, read_data: bool, repair: bool, jobs: int
) -> int:
    """Verify the store; mend it with --repair.

    Without options: the structure of every arena, the index and the catalog against them, both
    ways, and that everything versions refer to is where the index leads. Damage names the versions
    and paths that it harms, at most 1,000 paths of each version. Exits with 1 when anything is
    wrong. Notes only: what forgotten versions lack, which 'undelete' can bring back; that others
    can read the store; files with other modes than its kind.

    A repair drops damaged blocks from the index, or turns to another copy where there is one, so
    that the next archive stores them anew instead of trusting them. It also makes arenas whole
    whose structure is damaged, keeping what it cuts out beside them; undamaged blocks are never
    touched.
    """
    with ByteProgress("checking", quiet=as_json) as progress:
        report = check_store(store, read_data=read_data or repair, jobs=jobs, progress=progress)
    harmful = [finding for finding in report.findings if not finding.harmless]
    mended = None
    if repair and (harmful or _lost_blocks(report)[1]):
        with ByteProgress("rebuilding the index", quiet=as_json) as progress:
            mended = repair_store(store, report, progress, wait_s=wait_s or 0)
    harms = _check_versions(store, report, mended, quiet=as_json)
    if as_json:
        _print_json(store, report, mended, harms, read_data=read_data or repair)
    else:
        _print_lines(store, report, mended, harms, read_data=read_data or repair)
    wrong = bool(mended.lost) if mended else bool(harmful)
    return 1 if wrong or harms.found else 0


@dataclass(slots=True)
class _Harms:
    """The damage to versions.

    Attributes:
        found: of versions in the catalog.
        forgotten: of forgotten versions, each with its time of forgetting.
        cut: versions of which more paths are harmed than are named.
        misled: whether the index leads to any block that is not there, or lacks any that is.
    """

    found: list[Harm] = field(default_factory=list)
    forgotten: list[tuple[Harm, str]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    misled: bool = False


def _check_versions(store: Path, report: Report, mended: Repair | None, *, quiet: bool) -> _Harms:
    """The damage to versions; empty if the index cannot be read, when none can be determined."""
    harms = _Harms()
    if mended is None and not report.index_read:
        return harms
    damaged, unindexed = ({}, set()) if mended else _lost_blocks(report)
    with EntryProgress("checking versions", quiet=quiet) as progress, Store.open(store) as opened:
        verifier = Verifier(opened, damaged=damaged, unindexed=unindexed)
        for version in versions(opened):
            harms.found += verifier.version(version)
            progress(verifier.paths, 0, str(version).encode())
        for each in forgotten(opened):
            found = verifier.forgotten(each)
            harms.forgotten += ((harm, each.forgotten_when) for harm in found)
            progress(verifier.paths, 0, str(each.version).encode())
        harms.cut = verifier.cut
        harms.misled = verifier.misled or bool(unindexed and harms.found)
    return harms


def _lost_blocks(report: Report) -> tuple[dict[Score, str], set[Score]]:
    """The blocks that are damaged where the index leads, and those that it lacks."""
    damaged: dict[Score, str] = {}
    unindexed: set[Score] = set()
    for finding in report.findings:
        if finding.score and finding.reason == LACKS_BLOCK:  # also a harmless one: see `audit`
            unindexed.add(Score(bytes.fromhex(finding.score)))
        elif finding.score and finding.what == "block" and not finding.harmless:
            damaged[Score(bytes.fromhex(finding.score))] = finding.reason
    return damaged, unindexed


def _print_json(
    store: Path, report: Report, mended: Repair | None, harms: _Harms, *, read_data: bool
) -> None:
    facts = {
        **exact(os.fsencode(store), "store"),
        "read_data": read_data,
        **asdict(report.summary),
        "findings": [asdict(finding) for finding in report.findings],
        "features": read_header(store).features,
        "exposed": exposed(store),
        "odd_modes": [
            {
                **exact(os.fsencode(odd.path)),
                "mode": f"{odd.mode:04o}",
                "expected": f"{odd.expected:04o}",
            }
            for odd in odd_modes(store)
        ],
        "repair": asdict(mended) if mended else None,
        "harmed": [_facts(harm) for harm in harms.found],
        "harmed_forgotten": [
            {**_facts(harm), "forgotten": forgotten_when}
            for harm, forgotten_when in harms.forgotten
        ],
        "more_harmed_paths": harms.cut,
    }
    print_json(facts)


def _facts(harm: Harm) -> dict[str, object]:
    return {"version": harm.version, **exact(harm.path), "reason": harm.reason}


def _print_lines(
    store: Path, report: Report, mended: Repair | None, harms: _Harms, *, read_data: bool
) -> None:
    for finding in report.findings[:_SHOWN_MAX]:
        echo(_line(finding))
    if len(report.findings) > _SHOWN_MAX:
        echo(f"... and {len(report.findings) - _SHOWN_MAX:,} more; --json lists them all")
    for harm in harms.found[:_SHOWN_MAX]:
        echo(f"harmed: {_harm_line(harm)}")
    if len(harms.found) > _SHOWN_MAX:
        echo(f"... and {len(harms.found) - _SHOWN_MAX:,} more; --json lists them")
    for label in harms.cut:
        echo(f"harmed: {label}: more paths than the {PATHS_MAX:,} that are named")
    for harm, when in harms.forgotten[:_SHOWN_MAX]:
        echo(f"note: forgotten {when}: {_harm_line(harm)}")
    if len(harms.forgotten) > _SHOWN_MAX:
        more = len(harms.forgotten) - _SHOWN_MAX
        echo(f"note: ... and {more:,} more of forgotten versions; --json lists them")
    if open_to := exposed(store):
        echo(f"note: {open_to}")
    if odd := odd_line(store, odd_modes(store)):
        echo(f"note: {odd}")
    if not read_header(store).read_only_compatible & RECLAIMED:
        echo(
            "note: the store is of an older program; "
            f"'ventifs upgrade --store {shell_word(store)}' brings it up to date"
        )
    seen = report.summary
    how = "every byte" if read_data else "structure"
    echo(
        f"{printable(store)}: {how} of {count(seen.arenas, 'arena')} checked, {size(seen.bytes)}, "
        f"{count(seen.clumps, 'clump')}, {count(seen.blocks, 'block')}"
    )
    for line in _verdict(store, report, mended, harms, read_data=read_data):
        echo(line)


def _harm_line(harm: Harm) -> str:
    return f"{harm.version}:/{printable(harm.path)}: {harm.reason}"


def _line(finding: Finding) -> str:
    place = [] if finding.arena is None else [f"arena {finding.arena}"]
    place += [] if finding.offset is None else [f"at {finding.offset}"]
    what = finding.what if finding.score is None else f"{finding.what} {finding.score}"
    note = "; nothing leads to it any more" if finding.harmless else ""
    return f"{what}: {' '.join(place) + ': ' if place else ''}{finding.reason}{note}"


def _verdict(
    store: Path, report: Report, mended: Repair | None, harms: _Harms, *, read_data: bool
) -> list[str]:
    harmful = [finding for finding in report.findings if not finding.harmless]
    if mended is not None:
        lines = [
            f"mended: {count(len(mended.lost), 'block')} lost, {len(mended.healed):,} healed from "
            f"another copy, {count(mended.rescued, 'record')} written again"
        ]
        if mended.lost:
            lines += ["next: archive the same sources again, which stores the lost blocks anew"]
        return lines
    mend = f"ventifs check --repair --store {shell_word(store)}"
    if not harmful and harms.found:
        paths = len({(harm.version, harm.path) for harm in harms.found})
        remedy = (
            "archive the same sources again; what is the same is whole again then; forget the "
            "versions that stay harmed, for 'ventifs reclaim' refuses as long as they are there"
        )
        if harms.misled:
            remedy = f"{mend}, so that the index leads to what is there"
        return [f"{count(paths, 'path')} of versions harmed", f"next: {remedy}"]
    if not harmful:
        harmless = len(report.findings)
        return ["no errors" + (f" ({harmless} old damages that do no harm)" if harmless else "")]
    kinds = {finding.what for finding in harmful}
    if kinds <= {"index", "catalog"} and not report.rescued:
        remedy = f"ventifs rebuild-index --store {shell_word(store)}"
    elif any(finding.reason == "its file is missing" for finding in harmful):
        remedy = f"put the missing files back, or else {mend}"
    else:
        remedy = mend
    more = "" if read_data else " (--read-data may find more)"
    return [f"{count(len(harmful), 'error')}{more}", f"next: {remedy}"]


@click.command("rebuild-index", short_help="Make index and catalog anew from the arenas alone.")
@store_option
@wait_option
def rebuild_index(store: Path, *, wait_s: float | None) -> int:
    """Make index and catalog anew from the arenas alone.

    Reads and verifies every arena, and wants the store to itself. The old index stays in place
    until the new one is done, so an interrupted rebuild changes nothing.
    """
    header = read_header(store)
    require_writable(store, header)
    warn_if_exposed(store)
    with (
        store_lock(store, alone=True, wait_s=wait_s or 0),
        ByteProgress("reading arenas") as progress,
    ):
        header = header_under_lock(store, header)
        damages = rebuild(store, header, Files(), progress)
    for arena, damage in damages:
        echo(f"arena {arena.hex()} at {damage.offset}: {damage.length} bytes are damaged")
    echo(f"{printable(store)}: the index is rebuilt")
    if damages:
        echo(f"{count(len(damages), 'damage')} left out of it")
        echo("next: archive the same sources again, which stores what was lost anew")
    return 1 if damages else 0

"""`ventifs restore`."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import click

import ventifs
from ventifs import Archive, ArchivedPath
from ventifs.cli.formatting import count, exact, size
from ventifs.cli.options import jobs_option, pattern_options, patterns
from ventifs.cli.output import echo, print_json
from ventifs.cli.progress import EntryProgress
from ventifs.cli.restoring.restore_disk import is_device, restore_device, restore_image, telling
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.browse import find_file
from ventifs.errors import VentifsError
from ventifs.image.formats.qemu_img import FORMATS
from ventifs.text import printable
from ventifs.tree.objects.records import Directory, Entry
from ventifs.tree.process_pool import Pool, Workers
from ventifs.tree.restore.directory_symlinks import Symlinks
from ventifs.tree.restore.dry_run import Plan
from ventifs.tree.restore.file_maker import making
from ventifs.tree.restore.restored import Restored
from ventifs.tree.restore.selection import Selection

_FAILED = 1  # exit codes: some of it is damaged, or in the way, or there is nothing
_LEFT = 3  # restored, except what the user may not restore
_SHOWN_MAX = 20


@click.command(short_help="Bring a version back.")
@click.argument("what", metavar="VERSION[:PATH]")
@click.argument("target", type=click.Path(readable=False, path_type=Path), metavar="DEST")
@store_option
@json_option
@click.option("--overwrite", is_flag=True, help="Replace what is there; keep what is not archived.")
@click.option(
    "--keep-directory-symlinks",
    is_flag=True,
    help="Keep links to directories beneath DEST, whoever can move them.",
)
@click.option(
    "--replace-symlinks", is_flag=True, help="Replace all links by the directories archived."
)
@pattern_options("include", "Only what this gitignore pattern matches, and what is below.")
@pattern_options("exclude", "Not what this gitignore pattern matches, nor what is below.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(("raw", *FORMATS)),
    metavar="FORMAT",
    help="Of a disk: raw, qcow2, vmdk, vhd, vhdx.  [default: raw]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be restored.")
@click.option("-v", "--verbose", is_flag=True, help="With --dry-run, list the paths.")
@jobs_option
def restore(
    what: str,
    target: Path,
    *,
    store: Path,
    as_json: bool,
    overwrite: bool,
    keep_directory_symlinks: bool,
    replace_symlinks: bool,
    include: Sequence[str],
    exclude: Sequence[str],
    include_from: Sequence[BinaryIO],
    exclude_from: Sequence[BinaryIO],
    kind: str | None,
    dry_run: bool,
    verbose: bool,
    jobs: int,
) -> int:
    """Bring a version, or a part of one, back.

    DEST is a new or empty directory, unless --overwrite is given: then what is archived replaces
    what is there, file by file, and a file that is already the same in everything is left alone. A
    regular file or link comes back as DEST itself. Patterns are relative to PATH.

    With --overwrite, a symbolic link in DEST where the version has a directory is kept, and the
    directory that it leads to restored, if that is beneath DEST and all links and directories on
    the way are root's or your own, and no other user can write in these directories. Any other link
    is replaced by a directory, and reported.

    Of a version that is a disk's, VERSION without a path means the disk: DEST is a new raw image,
    sparse, or one of another --format; or a block device, which --overwrite writes whole.
    VERSION:/ is the directory with the disk, its partitions, and the files inside.

    Owners and devices come back when run as root; what the user may not restore is told, and gives
    exit code 3. Every block is verified: what is damaged is told and left out, everything else is
    restored, and the exit code is 1. Run again with --overwrite to finish an interrupted restore.
    """
    if verbose and not dry_run:
        raise click.UsageError("--verbose goes with --dry-run, which lists the paths")
    selection = Selection(patterns(include, include_from), patterns(exclude, exclude_from))
    kept = _symlinks(keep_directory_symlinks, replace_symlinks, overwrite=overwrite)
    if dry_run:
        there = target if overwrite else None
        return _plan(what, store, selection, there, kept, verbose=verbose, as_json=as_json)
    more = 0
    with _pool(jobs, store, overwrite=overwrite) as pool, ventifs.open(store) as archive:
        found = _find(archive, what, selection)
        if kind not in (None, "raw") or is_device(target):
            _check_file(found, what)
        if is_device(target):
            if kind not in (None, "raw"):
                raise click.UsageError("--format is for image files; a device gets the disk itself")
            done, more = restore_device(
                found.version.store, pool, found.entry, target, overwrite=overwrite, quiet=as_json
            )
        elif kind not in (None, "raw"):
            done = restore_image(
                found.version.store,
                pool,
                found.entry,
                target,
                kind,
                overwrite=overwrite,
                quiet=as_json,
            )
        else:
            done = _restore(
                found, target, pool, selection, kept, overwrite=overwrite, quiet=as_json
            )
    if not (done.entries or done.failed or done.left):
        raise VentifsError(f"{what}: nothing matches the patterns, so nothing is restored")
    if as_json:
        print_json(_as_json(done))
    else:
        _print(done, target)
    if more:
        echo(f"{printable(target)} has {size(more)} more, which are as they were", err=True)
    if done.failed:
        return _FAILED
    return _LEFT if done.left else 0


def _symlinks(keep: bool, replace: bool, *, overwrite: bool) -> Symlinks:
    if keep and replace:
        raise click.UsageError(
            "--keep-directory-symlinks and --replace-symlinks exclude each other; give one of them"
        )
    if (keep or replace) and not overwrite:
        option = "--keep-directory-symlinks" if keep else "--replace-symlinks"
        raise click.UsageError(
            f"{option} goes with --overwrite, without which no links are there to keep or replace"
        )
    if keep:
        return Symlinks.KEEP
    return Symlinks.REPLACE if replace else Symlinks.TRUSTED


@contextmanager
def _pool(jobs: int, store: Path, *, overwrite: bool) -> Iterator[Pool | None]:
    """Workers, forked before there is a store or a progress display; none for one job."""
    if jobs == 1:
        yield None
        return
    with Workers(jobs, lambda *_: making(store, overwrite=overwrite)) as pool:
        yield pool


def _find(archive: Archive, text: str, selection: Selection) -> ArchivedPath:
    found = find_file(archive, text)
    if selection and not found.is_dir():
        hint = "" if ":/" in text else f"; {text}:/ is the directory, and {text} its disk"
        raise VentifsError(
            f"{text}: not a directory, so patterns have nothing to choose from{hint}"
        )
    return found


def _check_file(found: ArchivedPath, text: str) -> None:
    if not found.is_file():
        raise VentifsError(f"{text}: not a disk; a disk's version or one of its volumes is wanted")


def _restore(
    found: ArchivedPath,
    target: Path,
    pool: Pool | None,
    selection: Selection,
    symlinks: Symlinks,
    *,
    overwrite: bool,
    quiet: bool,
) -> Restored:
    """Restore a directory into, or anything else as, `target`."""
    with ExitStack() as stack:
        if found.is_file():
            reported = 0
            tell = stack.enter_context(telling("restoring", found.size, quiet=quiet))

            def progress(done: Restored, path: bytes) -> None:
                nonlocal reported
                more, reported = done.size - reported, done.size
                tell(more)
        else:
            stack.enter_context(_told_how_to_go_on())
            shown = stack.enter_context(_progress(found.entry, selection, quiet=quiet))

            def progress(done: Restored, path: bytes) -> None:
                shown(done.entries, done.size, path)

        return found.restore(
            target,
            overwrite=overwrite,
            symlinks=symlinks,
            include=selection.include,
            exclude=selection.exclude,
            pool=pool,
            progress=progress,
        )


def _progress(entry: Entry, selection: Selection, *, quiet: bool) -> EntryProgress:
    """Progress, with the time left if a whole directory is restored."""
    if selection or not isinstance(entry.detail, Directory):
        return EntryProgress("restoring", quiet=quiet)
    return EntryProgress(
        "restoring",
        quiet=quiet,
        expected_entries=entry.detail.paths + 1,
        expected_bytes=entry.detail.bytes,
    )


@contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except Exception:
        raise
    except BaseException:  # Ctrl-C, SIGTERM
        echo("what was restored stays; run again with --overwrite to finish", err=True)
        raise


def _print(done: Restored, target: Path) -> None:
    troubles = [f"{printable(path) or '/'}: not restored: {why}" for path, why in done.failed]
    troubles += [f"{printable(path) or '/'}: left out: {what}" for path, what in done.left]
    troubles += [f"{printable(path)}: replaced {what}" for path, what in done.replaced]
    for line in troubles[:_SHOWN_MAX]:
        echo(line, err=True)
    more = len(troubles) - _SHOWN_MAX + done.unlisted
    if more > 0:
        echo(f"... and {more:,} more", err=True)
    facts = [count(done.entries, "entry", "entries"), size(done.size)]
    were = "was" if done.kept == 1 else "were"
    facts += [f"{count(done.kept, 'file')} {were} there already"] if done.kept else []
    links = count(len(done.replaced), "symbolic link")
    facts += [f"{links} replaced by directories"] if done.replaced else []
    but = f", but {count(len(done.failed), 'path')} could not be" if done.failed else ""
    echo(f"restored {', '.join(facts)} to {printable(target)}{but}")


def _as_json(done: Restored) -> dict[str, object]:
    return {
        "entries": done.entries,
        "bytes": done.size,
        "kept": done.kept,
        "left": [{**exact(path), "left": what} for path, what in done.left],
        "failed": _failed_json(done.failed),
        "replaced": _replaced_json(done.replaced),
        "unlisted": done.unlisted,
    }


def _failed_json(failed: list[tuple[bytes, str]]) -> list[dict[str, str]]:
    return [{**exact(path), "reason": why} for path, why in failed]


def _replaced_json(replaced: list[tuple[bytes, str]]) -> list[dict[str, str]]:
    return [{**exact(path), "was": what} for path, what in replaced]


def _plan(
    what: str,
    store: Path,
    selection: Selection,
    target: Path | None,
    symlinks: Symlinks,
    *,
    verbose: bool,
    as_json: bool,
) -> int:
    """Print what would be restored."""
    paths: list[dict[str, str]] = []

    def report(path: bytes, _: Entry) -> None:
        if verbose and as_json:
            paths.append(exact(path))
        elif verbose:
            echo(printable(path) or "/")

    with ventifs.open(store) as archive:
        found = _find(archive, what, selection)
        plan = Plan(
            found.version.store,
            found.entry,
            selection,
            report,
            target=target,
            symlinks=symlinks,
        )
    for path, why in plan.failed:
        echo(f"{printable(path) or '/'}: cannot be restored: {why}", err=True)
    for path, link in plan.replaced:
        echo(f"{printable(path)}: would replace {link}", err=True)
    if not plan.entries:
        raise VentifsError(f"{what}: nothing matches the patterns")
    if as_json:
        facts = {
            "entries": plan.entries,
            "bytes": plan.size,
            "dry_run": True,
            "failed": _failed_json(plan.failed),
            "replaced": _replaced_json(plan.replaced),
        }
        print_json({**facts, "paths": paths} if verbose else facts)
    else:
        number = count(len(plan.replaced), "symbolic link")
        links = f", {number} replaced by directories" if plan.replaced else ""
        echo(f"would restore {count(plan.entries, 'entry', 'entries')}, {size(plan.size)}{links}")
    return _FAILED if plan.failed else 0

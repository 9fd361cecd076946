"""Brings a store that an older program made up to date.

An upgrade is a list of steps. Each finds out by itself what is to be done, so a step that was
interrupted, or has been done, may be run again. The header comes last: only when all else is done
does the store say that it has the features. All steps run under the store's exclusive lock; what
would be done is found out without it.

A new step is a pair of functions in `STEPS`, before the header's.
"""

import os
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ventifs.store.exposure import Odd, closed_mode, odd_modes, user_name
from ventifs.store.files import Files, readable_errors
from ventifs.store.header import (
    READ_ONLY_COMPATIBLE_NAMES,
    RECLAIMED,
    StoreHeader,
    header_under_lock,
    names_of_bits,
    read_header,
    require_writable,
    write_header,
)
from ventifs.store.index import Index
from ventifs.store.leases import make_leases_directory
from ventifs.store.lmdb_environment import index_missing
from ventifs.store.lock import gates_there, make_gates, store_lock
from ventifs.store.permissions import LEASES, close_directory, correct
from ventifs.store.reserve import (
    default_size,
    has_room,
    reserve_length,
    reserve_space,
    resize,
    room_needed,
)
from ventifs.text import printable


class UpgradedStore(msgspec.Struct, frozen=True):
    """What a step works on.

    Attributes:
        root: the store's directory.
        wanted: the header as it should be, which is put in place last.
        files: for tests.
    """

    root: Path
    wanted: StoreHeader
    files: Files


def _nothing(_: UpgradedStore) -> str | None:
    return None


class UpgradeStep(msgspec.Struct, frozen=True):
    """One thing that is brought up to date.

    Attributes:
        name: a word.
        problem: what is to be corrected, in a line without the store's name; None if nothing is,
            or nothing that this user can. Changes nothing.
        correct: corrects it. Idempotent, also after it was interrupted anywhere.
        left: what remains that this user or this disk does not allow, and the remedy.
    """

    name: str
    problem: Callable[[UpgradedStore], str | None]
    correct: Callable[[UpgradedStore], None]
    left: Callable[[UpgradedStore], str | None] = _nothing


class Correction(msgspec.Struct, frozen=True):
    """What an upgrade reports.

    Attributes:
        step: the name of the step.
        text: what was wrong, or why it is left.
        left: whether it is left as it is.
    """

    step: str
    text: str
    left: bool = False


def upgrade(
    root: Path,
    report: Callable[[Correction], object],
    *,
    reserve: int | None = None,
    first_reserve: int | None = None,
    dry_run: bool = False,
    wait_s: float = 0,
    files: Files | None = None,
) -> None:
    """Bring a store's permissions, reserve, index and header up to date; idempotent.

    Takes the store's lock only if there is something to do. Blocks and records stay as they are.
    It can be interrupted at any moment, and run again.

    Args:
        root: the store's directory.
        report: called after each thing that was done or left; in a dry run, for what would be.
        reserve: bytes that the reserve should have from now on, 0 for none. By default as many as
            before.
        first_reserve: the same for a store that never had one; by default as a new store.
        dry_run: whether nothing is changed.
        wait_s: how many seconds to wait for others that use the store.
        files: for tests.

    Raises:
        Busy: other processes write to the store.
        NotAStore, Unsupported, Corrupt: see `header.read_header` and `require_writable`.
        VentifsError: this user may not change the store, or the disk is full.
    """
    header = read_header(root)
    require_writable(root, header)
    if reserve is None:
        reserve = _reserve_before(root, header, first_reserve)
    store = _store(root, header, reserve, files or Files())
    found = [found for step in STEPS for found in _corrections(step, store, dry_run=True)]
    if dry_run or all(one.left for one in found):
        for one in found:
            report(one)
        return
    with store_lock(root, alone=True, wait_s=wait_s):
        store = _store(root, header_under_lock(root, header), reserve, store.files)
        for step in STEPS:
            for one in _corrections(step, store, dry_run=False):
                report(one)


def _reserve_before(root: Path, header: StoreHeader, first: int | None) -> int:
    if header.reserve or header.read_only_compatible & RECLAIMED:
        return header.reserve
    with readable_errors(root):
        return default_size(root) if first is None else first


def _store(root: Path, header: StoreHeader, reserve: int, files: Files) -> UpgradedStore:
    bits = header.read_only_compatible | RECLAIMED
    wanted = replace(header, read_only_compatible=bits, reserve=reserve)
    return UpgradedStore(root, wanted, files)


def _corrections(step: UpgradeStep, store: UpgradedStore, *, dry_run: bool) -> list[Correction]:
    """Do a step if there is something to do; return what was, or would be, done and left."""
    still = None
    with readable_errors(store.root):
        problem = step.problem(store)
        if problem and not dry_run:
            step.correct(store)
            still = step.problem(store)
        left = step.left(store)
    done = [Correction(step.name, problem)] if problem and problem != still else []
    return done + [Correction(step.name, text, left=True) for text in (still, left) if text]


# --- access to the store's directory ------------------------------------------------------------


def _mine(uid: int) -> bool:
    return os.geteuid() in (0, uid)


def _open_to_others(store: UpgradedStore) -> str | None:
    mode, who = closed_mode(store.root)
    if not who or not _mine(store.root.stat().st_uid):
        return None
    return f"{who} could read what is archived here; the directory's mode is {mode:04o}"


def _close_to_others(store: UpgradedStore) -> None:
    close_directory(store.root, closed_mode(store.root)[0])


def _stays_open(store: UpgradedStore) -> str | None:
    _, who = closed_mode(store.root)
    if not who or _mine(store.root.stat().st_uid):
        return None
    return f"{who} can read what is archived here; its owner ends that by running this"


# --- modes of all that is in it -----------------------------------------------------------------


def _odd_ones(store: UpgradedStore) -> tuple[list[Odd], list[Odd]]:
    """What has another mode than the store's kind: what this user may correct, and the rest.

    The kind is that of the store when its directory is closed: no file is ever opened to others.
    """
    odd = odd_modes(store.root, closed_mode(store.root)[0])
    return [one for one in odd if _mine(one.uid)], [one for one in odd if not _mine(one.uid)]


def _counted(odd: list[Odd]) -> str:
    first = odd[0]
    things = "1 file or directory has" if len(odd) == 1 else f"{len(odd):,} files have"
    return (
        f"{things} another mode than the store's kind, first {printable(first.path)}: "
        f"{first.mode:04o} where {first.expected:04o} is expected"
    )


def _other_modes(store: UpgradedStore) -> str | None:
    mine, _ = _odd_ones(store)
    return _counted(mine) if mine else None


def _correct_modes(store: UpgradedStore) -> None:
    for one in _odd_ones(store)[0]:
        with suppress(FileNotFoundError):
            correct(store.root, one.path, one.expected)


def _modes_of_others(store: UpgradedStore) -> str | None:
    _, others = _odd_ones(store)
    if not others:
        return None
    return f"{_counted(others)}; its owner {user_name(others[0].uid)} corrects that by running this"


# --- the reserve ----------------------------------------------------------------------------------


def _reserve_to_change(store: UpgradedStore) -> str | None:
    size, space = store.wanted.reserve, reserve_space(store.root)
    if space < size and has_room(store.root, size):
        return f"the reserve has {space:,} bytes where {size:,} are wanted"
    if reserve_length(store.root) > size:
        return f"the reserve has {space:,} bytes where {size:,} are wanted"
    return None


def _change_reserve(store: UpgradedStore) -> None:
    resize(store.root, store.wanted.reserve, store.files)


def _no_room_for_reserve(store: UpgradedStore) -> str | None:
    size = store.wanted.reserve
    if reserve_space(store.root) >= size or has_room(store.root, size):
        return None
    return (
        f"there is no room for a reserve of {size:,} bytes; a command that writes makes it when "
        f"{room_needed(size):,} are free"
    )


# --- the index ------------------------------------------------------------------------------------


def _old_index(store: UpgradedStore) -> str | None:
    path = store.root / "index"
    if index_missing(path):
        return None  # the next command that writes makes it
    with closing(Index(path, store.wanted.store_id)) as index:
        return None if index.up_to_date else "the index lacks marks of the arenas that it knows"


def _complete_index(store: UpgradedStore) -> None:
    with closing(Index(store.root / "index", store.wanted.store_id)) as index:
        index.bring_up_to_date()


# --- gates and leases -----------------------------------------------------------------------------


def _no_locks(store: UpgradedStore) -> str | None:
    if gates_there(store.root) and (store.root / LEASES).is_dir():
        return None
    return "the store lacks gates for writers, or a directory for leases of readers"


def _make_locks(store: UpgradedStore) -> None:
    make_gates(store.root, store.files)
    make_leases_directory(store.root)


# --- the header -----------------------------------------------------------------------------------


def _old_header(store: UpgradedStore) -> str | None:
    header = read_header(store.root)
    missing = store.wanted.read_only_compatible & ~header.read_only_compatible
    if missing:
        names = ", ".join(names_of_bits(missing, READ_ONLY_COMPATIBLE_NAMES))
        return f"the header lacks the feature {names}"
    if header != store.wanted:
        return (
            f"the header says a reserve of {header.reserve:,} bytes where "
            f"{store.wanted.reserve:,} are wanted"
        )
    return None


def _write_header(store: UpgradedStore) -> None:
    write_header(store.root, store.wanted, store.files)


STEPS = [
    UpgradeStep("access", _open_to_others, _close_to_others, _stays_open),
    UpgradeStep("modes", _other_modes, _correct_modes, _modes_of_others),
    UpgradeStep("reserve", _reserve_to_change, _change_reserve, _no_room_for_reserve),
    UpgradeStep("index", _old_index, _complete_index),
    UpgradeStep("locks", _no_locks, _make_locks),
    UpgradeStep("header", _old_header, _write_header),
]

"""`ventifs.reclaim`: space comes back that no version needs.

A function, and no method of `Archive`: it waits for all processes that write to the store at that
moment, and an archive that is open for writing makes this process one of them.
"""

import math
import os

from ventifs.api.path import given_path
from ventifs.tree.reclaim.results import Limits, Reclaimed, ReclaimObserver

UNLIMITED_BYTES = 2**63 - 1  # more than any store has


def reclaim(
    path: str | os.PathLike[str],
    *,
    grace_s: float = 0,
    max_unused: float | int = 0.05,
    max_repack: int | None = None,
    dry_run: bool = False,
    wait_s: float | None = None,
    observer: ReclaimObserver | None = None,
) -> Reclaimed:
    """Free the space of what no version needs. What was forgotten before the grace is then gone.

    Other processes go on archiving, reading and serving. What they read stays, even if it was
    forgotten. An interrupted reclaim loses nothing; another one goes on where it can. An archive
    that this process itself has open for writing must be closed first: this would wait for it for
    ever.

    Args:
        path: the store's directory.
        grace_s: forgotten versions that were forgotten in these last seconds stay, and can be
            brought back. All others go for good.
        max_unused: how much unused space may be left: a share of what is left, as a float from 0
            to 1, or bytes, as an int; `math.inf` for any amount. Files in which nothing is needed
            are freed in any case.
        max_repack: bytes of what is needed that may be copied, so that the rest of its files can be
            freed; 0 for none, None for any number.
        dry_run: change nothing, and only plan.
        wait_s: seconds to wait for each lock that others hold. By default runs that write to the
            store are waited for as long as they take (others may begin meanwhile), and other locks
            only if they are held for a moment.
        observer: is notified of progress; an exception that it raises ends the reclaim.

    Returns:
        What was planned, and what was done.

    Raises:
        Busy: another reclaim is at work, or a rebuild, repair or upgrade; or a lock is held for
            longer than `wait_s`.
        Corrupt, NotStored: a version, or a forgotten one that stays, is damaged, so that it is not
            known what is needed. Nothing is freed.
        NoSpace: the disk is full. `max_repack=0` frees what needs no copies.
        VentifsError: the store is of an older program, and needs `ventifs upgrade`; or it has
            records of a newer one; or this user may not write to it.
        ValueError: a limit, the grace or the time to wait is none.
    """
    from ventifs.image.formats.kept_choice import useless_kept
    from ventifs.store.header import read_header, require_reclaimed
    from ventifs.tree.reclaim.reclaim import reclaim as reclaim_store

    root = given_path(path)
    require_reclaimed(root, read_header(root))  # also in a dry run, for it could not be done
    return reclaim_store(
        root,
        grace_ns=int(_not_negative("grace_s", grace_s) * 10**9),
        limits=_limits(max_unused, max_repack),
        dry_run=dry_run,
        wait_s=None if wait_s is None else _not_negative("wait_s", wait_s),
        observer=observer,
        also=useless_kept,
    )


def _limits(max_unused: float | int, max_repack: int | None) -> Limits:
    """Check limits.

    Raises:
        ValueError: one of them is none.
    """
    if max_unused == math.inf:
        max_unused = UNLIMITED_BYTES
    if isinstance(max_unused, float) and not 0 <= max_unused <= 1:
        raise ValueError(
            f"max_unused {max_unused}: a share is a float from 0 to 1, and bytes are an int"
        )
    if max_unused < 0 or (max_repack is not None and max_repack < 0):
        raise ValueError("max_unused and max_repack cannot be negative")
    return Limits(max_unused, max_repack)


def _not_negative(name: str, seconds: float) -> float:
    """Check a number of seconds.

    Raises:
        ValueError: it is negative, infinite or no number.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} {seconds}: a number of seconds, 0 or more")
    return seconds

"""Real roots, archived and served: what guests mount, and what they should see there."""

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.looking import Look
from tests.support.segment import Segment
from tests.support.servers import PORT, Server, ventifs
from tests.support.sharing import shared

NAME = "web01"
DIALECTS = ("9p2000", "9p2000.u", "9p2000.L")
EVERYBODY = ("--allow", "192.0.2.0/24 *")
NOBODYS = (7, 8)  # the owner of everything in 9P2000: options `dfltuid`, `dfltgid`
_TIME_MAX = 0xFFFF_FFFE  # the protocol's largest value has a special meaning


def command(*words: str | Path) -> list[str | Path]:
    """The command line of this tree's own `ventifs`."""
    return [sys.executable, "-m", "ventifs.cli.main", *words]


def archive(store: Path, source: Path, name: str) -> str:
    """Archive a directory; return the version, as `NAME@TIME`."""
    return f"{name}@{_archived(store, source, name)['time']}"


def _archived(store: Path, source: Path, name: str) -> dict[str, Any]:
    """Archive a directory; return the output of `archive --json`."""
    done = subprocess.run(
        command("archive", source, "--name", name, "--json", "--store", store),
        check=True,
        stdout=subprocess.PIPE,
    )
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@dataclass(frozen=True)
class Exported:
    """Roots that are archived as versions of `NAME`, oldest first, and served."""

    store: Path
    roots: tuple[Path, ...]
    versions: tuple[str, ...]
    server: Server

    def options(
        self,
        which: int | str,
        path: str = "",
        *,
        dialect: str = DIALECTS[-1],
        cache: str = "loose",
        more: str = "ro",
    ) -> str:
        """The mount options for a version, by number or name, or for a path in it."""
        aname = self.versions[which] if isinstance(which, int) else which
        uid, gid = NOBODYS
        return ",".join(
            [
                f"trans=tcp,port={PORT},version={dialect},aname={aname}{path and ':' + path}",
                f"uname=root,msize=131072,cache={cache},dfltuid={uid},dfltgid={gid}",
                more,
            ]
        )


@contextmanager
def archived_roots(
    base: Path, roots: Sequence[Path], store: Path
) -> Iterator[tuple[dict[str, Any], ...]]:
    """Make a store in which the roots are versions of `NAME`.

    It is a copy of one that the processes of a run share, since a root takes its seconds to
    archive. Yields the output of `archive --json` for each root.
    """
    with shared(base, "roots", partial(_archive_all, roots)) as (directory, facts):
        subprocess.run(["cp", "-a", directory / "store", store], check=True)
        yield tuple(json.loads(facts))


def _archive_all(roots: Sequence[Path], directory: Path) -> str:
    store = directory / "store"
    subprocess.run(command("init", "--store", store), check=True, stdout=subprocess.DEVNULL)
    return json.dumps([_archived(store, root, NAME) for root in roots])


@contextmanager
def exporting(
    segment: Segment, base: Path, scratch: Path, roots: tuple[Path, ...]
) -> Iterator[Exported]:
    """Archive roots into a store of the test's process below `scratch`, and serve it at `HOST`."""
    store, log = scratch / "store", scratch / "server.log"
    with (
        archived_roots(base, roots, store) as facts,
        ventifs(segment, log, store, *EVERYBODY) as server,
    ):
        yield Exported(store, roots, tuple(f"{NAME}@{each['time']}" for each in facts), server)


def expected(seen: Look, dialect: str, *, contents: bool = True) -> Look:
    """The facts that a guest should see of a file, given those of the archived one.

    Args:
        contents: whether the guest reads the file's content.

    Each dialect carries what it can:

    - 9P2000.L: everything. ACLs are attributes whose values Linux's client shows only if mounted
      with `access=client,posixacl`, which tests of whole roots do not use.
    - 9P2000.u: no extended attributes; whole seconds from 1970 to 2106; the number of links of
      regular files alone.
    - 9P2000: as 9P2000.u, but no numbers of links; no owners, which the client takes from its mount
      options; no types and no bits above the permissions, so that a symbolic link is a file that
      holds its target, and a device, FIFO or socket is an empty file.

    In every dialect a directory has one link and a size that the dialect fixes.
    """
    told: dict[str, Any] = dict(seen)
    mode, directory = seen["mode"], stat.S_ISDIR(seen["mode"])
    if dialect == "9p2000.L":
        told["xattrs"] = {
            name: "ENODATA" if name.startswith("system.posix_acl_") else value
            for name, value in seen["xattrs"].items()
        }
    else:
        del told["xattrs"]
        told["mtime_ns"] = min(max(seen["mtime_ns"] // 10**9, 0), _TIME_MAX) * 10**9
        if dialect == "9p2000" or not stat.S_ISREG(mode):
            told["nlink"] = 1
    if directory:
        told |= {"nlink": 1, "size": 4096 if dialect == "9p2000.L" else 0}
    if dialect == "9p2000":
        told["uid"], told["gid"] = NOBODYS
        told["mode"] = (stat.S_IFDIR if directory else stat.S_IFREG) | mode & 0o777
        if not directory and not stat.S_ISREG(mode):
            held = seen.get("target", "").encode("latin-1")
            told["md5"] = hashlib.md5(held, usedforsecurity=False).hexdigest()
            told["size"] = len(held)
            told.pop("target", None)
            told.pop("rdev", None)
    if not contents:
        told.pop("md5", None)
    return told


def differences(ours: dict[bytes, Look], theirs: dict[bytes, Look], *, most: int = 20) -> list[str]:
    """The differences of two trees, a line for each fact, for a message."""
    found = [f"{os.fsdecode(path)!r}: only in one" for path in sorted(ours.keys() ^ theirs.keys())]
    for path in sorted(ours.keys() & theirs.keys()):
        one, other = ours[path], theirs[path]
        found += [
            f"{os.fsdecode(path)!r}: {fact} is {other.get(fact)!r}, not {one.get(fact)!r}"
            for fact in sorted(one.keys() | other.keys())
            if one.get(fact) != other.get(fact)
        ]
    return found[:most]

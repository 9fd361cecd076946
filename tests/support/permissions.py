"""Compares permissions with Linux's own, in a child that becomes one user after another."""

import json
import os
import random
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ventifs.vfs.access.permission import NOBODY_UID, READ, SEARCH, Credentials, nobody, permits

NO_ID = 2**32 - 1
OWNER, GROUP = 1000, 100
_ACL = "system.posix_acl_access"


def acl_of(entries: list[tuple[int, int, int]]) -> bytes:
    """A binary access control list of (tag, bits, id)."""
    return b"\2\0\0\0" + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def compare(path: Path, cases: int) -> None:
    """In a child, as root: fail where `permits` and access(2) differ about a file."""
    rng = random.Random(1)
    uids, gids = [OWNER, 1001, 1002], [GROUP, 101, 102]
    for _ in range(cases):
        os.chown(path, OWNER, GROUP)
        path.chmod(rng.randrange(0o1000))
        if _ACL in os.listxattr(path):
            os.removexattr(path, _ACL)
        acl = _some_list(rng, uids, gids) if rng.random() < 0.6 else None
        if acl is not None:
            os.setxattr(path, _ACL, acl)
        mode = stat.S_IMODE(path.stat().st_mode)
        uid, groups = rng.choice(uids), set(rng.sample(gids, rng.randrange(3)))
        for wanted in (READ, SEARCH, READ | SEARCH):
            who = Credentials(uid, frozenset(groups))
            told = permits(who, wanted, mode, OWNER, GROUP, lambda acl=acl: acl)  # type: ignore[misc]
            assert told is _linux(path, uid, groups, wanted), (mode, acl, uid, groups, wanted)


def compare_nobody(path: Path, cases: int) -> None:
    """In a child, as root: fail where `permits` and two access(2) calls differ about nobody.

    `permits` must grant what both calls grant: one is made without a group, one with nobody's own
    group and some of the tree's.
    """
    rng = random.Random(2)
    for _ in range(cases):
        _make_odd(path, rng)
        status = path.stat()
        acl = os.getxattr(path, _ACL) if _ACL in os.listxattr(path) else None
        gids = frozenset(rng.sample([GROUP, 101, 102], rng.randrange(3)))
        for wanted in (READ, SEARCH, READ | SEARCH):
            told = permits(
                nobody(gids),
                wanted,
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                lambda acl=acl: acl,  # type: ignore[misc]
            )
            real = [
                _linux(path, NOBODY_UID, groups, wanted)
                for groups in (set[int](), {NOBODY_UID, *gids})
            ]
            assert told is all(real), (oct(status.st_mode), acl, gids, wanted)


NOBODYS_GROUPS = {NOBODY_UID, GROUP, 101}
"""Of a tree made by `odd_tree`."""


def odd_tree(top: Path, seed: int) -> None:
    """Make a tree of odd modes, owners and ACLs; its accounts put nobody in `NOBODYS_GROUPS`."""
    rng = random.Random(seed)
    (top / "etc").mkdir(parents=True)
    (top / "etc" / "passwd").write_text("root:x:0:0::/:\nnobody:x:65534:65534::/:\n")
    (top / "etc" / "group").write_text(f"users:x:{GROUP}:nobody\nodd:x:101:a,nobody\no:x:102:a\n")
    places = [top]
    for number in range(12):
        place = rng.choice(places) / f"d{number}"
        place.mkdir()
        places.append(place)
    files = [place / f"f{number}" for place in places for number in range(8)]
    for path in files:
        path.write_bytes(b"x")
    for path in [*files, *places[1:]]:
        _make_odd(path, rng, often_open=path not in files)
    top.chmod(0o755)


def write_readable(top: Path, result: Path) -> None:
    """In a child, as root: write the paths that nobody can read both with and without groups."""
    paths = [os.path.join(at, name) for at, _, names in os.walk(top) for name in names]
    found = []
    for path in paths:
        if all(_opens(path, groups) for groups in (set[int](), NOBODYS_GROUPS)):
            found.append(os.path.relpath(path, top))
    result.write_text(json.dumps(sorted(found)))


def _opens(path: str, groups: set[int]) -> bool:
    with _become(NOBODY_UID, groups):
        try:
            os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            return False
    return True


def _make_odd(path: Path, rng: random.Random, *, often_open: bool = False) -> None:
    """Change a file's owner, group, mode and access control lists."""
    uids, gids = [0, OWNER, NOBODY_UID], [0, GROUP, 101, 102, NOBODY_UID]
    os.chown(path, rng.choice(uids), rng.choice(gids))
    mode = rng.randrange(0o1000)
    path.chmod(mode | 0o111 if often_open and rng.random() < 0.7 else mode)
    for name in (_ACL, "system.posix_acl_default"):
        if name in os.listxattr(path):
            os.removexattr(path, name)
    if path.is_dir() and rng.random() < 0.5:  # does not affect the directory itself
        os.setxattr(path, "system.posix_acl_default", _some_list(rng, uids, gids))
    if rng.random() < 0.5:
        os.setxattr(path, _ACL, _some_list(rng, uids, gids))


def _some_list(rng: random.Random, uids: list[int], gids: list[int]) -> bytes:
    users = sorted(rng.sample(uids, rng.randrange(3)))
    groups = sorted(rng.sample(gids, rng.randrange(3)))
    return acl_of(
        [
            (1, rng.randrange(8), NO_ID),
            *((2, rng.randrange(8), uid) for uid in users),
            (4, rng.randrange(8), NO_ID),
            *((8, rng.randrange(8), gid) for gid in groups),
            (16, rng.randrange(8), NO_ID),
            (32, rng.randrange(8), NO_ID),
        ]
    )


def _linux(path: Path, uid: int, groups: set[int], wanted: int) -> bool:
    with _become(uid, groups):
        return os.access(path, wanted, effective_ids=True)


@contextmanager
def _become(uid: int, groups: set[int]) -> Iterator[None]:
    os.setgroups(sorted(groups))
    os.setegid(60_000)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])

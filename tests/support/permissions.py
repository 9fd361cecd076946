"""What Linux itself says of permissions, asked by a child that becomes one user after another."""

import os
import random
import stat
import struct
from pathlib import Path

from ventifs.ninep.permission import READ, SEARCH, Identity, permits

NO_ID = 2**32 - 1
OWNER, GROUP = 1000, 100
_ACL = "system.posix_acl_access"


def acl_of(entries: list[tuple[int, int, int]]) -> bytes:
    """A binary access control list of (tag, bits, id)."""
    return b"\2\0\0\0" + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def compare(path: Path, cases: int) -> None:
    """In a child of root's: fails where `permits` and access(2) differ about a file."""
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
            told = permits(Identity(uid, frozenset(groups)), wanted, mode, OWNER, GROUP,
                           lambda acl=acl: acl)  # type: ignore[misc]  # fmt: skip
            assert told is _linux(path, uid, groups, wanted), (mode, acl, uid, groups, wanted)


def _some_list(rng: random.Random, uids: list[int], gids: list[int]) -> bytes:
    users = sorted(rng.sample(uids, rng.randrange(3)))
    groups = sorted(rng.sample(gids, rng.randrange(3)))
    return acl_of([
        (1, rng.randrange(8), NO_ID), *((2, rng.randrange(8), uid) for uid in users),
        (4, rng.randrange(8), NO_ID), *((8, rng.randrange(8), gid) for gid in groups),
        (16, rng.randrange(8), NO_ID), (32, rng.randrange(8), NO_ID),
    ])  # fmt: skip


def _linux(path: Path, uid: int, groups: set[int], wanted: int) -> bool:
    os.setgroups(sorted(groups))
    os.setegid(60_000)
    os.seteuid(uid)
    try:
        return os.access(path, wanted, effective_ids=True)
    finally:
        os.seteuid(0)
        os.setegid(0)

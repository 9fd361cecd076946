"""Who may do what with a file: owner, group and other, and access control lists, as Linux has it.

With a list, the mode's group bits are its mask: they bound what named users and all groups get, and
are nobody's own. So the list itself decides, and one that cannot be understood gives nothing.
"""

import struct
from collections.abc import Callable

import msgspec

from ventifs.tree.acl import text_of

READ, SEARCH = 4, 1
ACL = b"system.posix_acl_access"
NOBODY_UID = 65_534

_ENTRY = struct.Struct("<HHI")
_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32


class Identity(msgspec.Struct, frozen=True):
    """Whom permissions are checked for.

    Attributes:
        uid: 0 may do everything.
        gids: all groups.
    """

    uid: int
    gids: frozenset[int] = frozenset()


NOBODY = Identity(NOBODY_UID)


def permits(
    who: Identity,
    wanted: int,
    mode: int,
    owner: int,
    group: int,
    acl: Callable[[], bytes | None],
) -> bool:
    """Whether a file permits something.

    Args:
        who: whom.
        wanted: READ, SEARCH, or both.
        mode: of the file; only its nine bits matter.
        owner: its uid.
        group: its gid.
        acl: its access control list, if it has one; asked only when it can matter.
    """
    if who.uid == 0:
        return True
    if who.uid == owner:
        return mode >> 6 & wanted == wanted  # a list says the same of the owner
    # With an empty mask Linux does not look at the list; so others' bits are for all it names.
    listed = acl() if mode & 0o070 else None
    if listed is not None:
        return _listed(who, wanted, group, listed)
    return (mode >> 3 if group in who.gids else mode) & wanted == wanted


def _listed(who: Identity, wanted: int, group: int, acl: bytes) -> bool:
    if text_of(acl) is None:
        return False
    entries: list[tuple[int, int, int]] = list(_ENTRY.iter_unpack(acl[4:]))
    mask = next((bits for tag, bits, _ in entries if tag == _MASK), 7)
    for tag, bits, number in entries:
        if tag == _USER and number == who.uid:
            return bits & mask & wanted == wanted
    groups = [bits for tag, bits, number in entries
              if (tag == _OWNING_GROUP and group in who.gids)
              or (tag == _GROUP and number in who.gids)]  # fmt: skip
    if groups:
        return any(bits & mask & wanted == wanted for bits in groups)
    return any(tag == _OTHER and bits & wanted == wanted for tag, bits, _ in entries)

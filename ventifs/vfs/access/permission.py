"""Permissions of a file as on Linux: owner, group and other, and access control lists.

With a list, the mode's group bits are its mask: they limit what named users and all groups get, and
are no group's own permissions. So the list itself decides. A list that cannot be parsed gives
nothing.

The user `nobody` may do what is permitted both to its uid without any group and to its uid with all
its groups. So a group that a file excludes stays excluded, and a group never gives anything. If its
groups cannot be known, it may be in any.
"""

import struct
from collections.abc import Callable, Container, Iterable

import msgspec

from ventifs.tree.tar.acl import text_of

READ, SEARCH = 4, 1
ACL = b"system.posix_acl_access"
NOBODY_UID = NOBODY_GID = 65_534

_ENTRY = struct.Struct("<HHI")
_AclEntry = tuple[int, int, int]  # tag, permissions, id
_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32


class Credentials(msgspec.Struct, frozen=True, weakref=True):
    """The user for whom permissions are checked.

    Attributes:
        uid: 0 may do everything.
        gids: all groups.
        deny_only: whether groups only deny and never give.
        gids_known: whether `gids` are all its groups; if not, it may be in any group, and groups
            only deny.
    """

    uid: int
    gids: Container[int] = frozenset()
    deny_only: bool = False
    gids_known: bool = True


def nobody(gids: Iterable[int] | None = ()) -> Credentials:
    """The user `nobody` in a tree that puts it into these groups; it is always in its own.

    Args:
        gids: None when the tree's accounts cannot be read.
    """
    own = frozenset({NOBODY_GID, *(gids or ())})
    return Credentials(NOBODY_UID, own, deny_only=True, gids_known=gids is not None)


def in_any_group(uid: int) -> Credentials:
    """A user whose groups cannot be known: it gets only what it would get in every group."""
    return Credentials(uid, deny_only=True, gids_known=False)


NOBODY = nobody()
NOBODY_IN_ANY_GROUP = nobody(None)


def permits(
    who: Credentials,
    wanted: int,
    mode: int,
    owner: int,
    group: int,
    acl: Callable[[], bytes | None],
) -> bool:
    """Whether a file permits a user to read it, to search it, or both.

    Args:
        who: the user.
        wanted: READ, SEARCH, or both.
        mode: of the file; only its nine bits matter.
        owner: its uid.
        group: its gid.
        acl: returns its access control list, if it has one; called only when it can matter.
    """
    if who.uid == 0:
        return True
    if who.uid == owner:
        return mode >> 6 & wanted == wanted  # a list says the same of the owner
    # With an empty mask Linux does not look at the list, so the users that it names get the bits of
    # others.
    listed = acl() if mode & 0o070 else None
    if listed is None:
        of_group = mode >> 3 if group in who.gids or not who.gids_known else mode
        of_other = mode if who.deny_only else of_group
        return of_group & of_other & wanted == wanted
    if text_of(listed) is None:
        return False
    entries: list[_AclEntry] = list(_ENTRY.iter_unpack(listed[4:]))
    if not who.deny_only:
        return _listed(who.uid, who.gids, wanted, group, entries)
    memberships: list[Container[int]] = [frozenset[int](), who.gids]
    if not who.gids_known:
        named = [number for tag, _, number in entries if tag == _GROUP]
        memberships += [frozenset({gid}) for gid in (group, *named)]
    return all(_listed(who.uid, gids, wanted, group, entries) for gids in memberships)


def _listed(
    uid: int, gids: Container[int], wanted: int, group: int, entries: list[_AclEntry]
) -> bool:
    mask = next((bits for tag, bits, _ in entries if tag == _MASK), 7)
    for tag, bits, number in entries:
        if tag == _USER and number == uid:
            return bits & mask & wanted == wanted
    groups = [
        bits
        for tag, bits, number in entries
        if (tag == _OWNING_GROUP and group in gids) or (tag == _GROUP and number in gids)
    ]
    if groups:
        return any(bits & mask & wanted == wanted for bits in groups)
    return any(tag == _OTHER and bits & wanted == wanted for tag, bits, _ in entries)

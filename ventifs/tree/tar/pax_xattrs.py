"""Extended attributes as pax records, in the spellings of GNU tar, star and libarchive.

`SCHILY.xattr.NAME` holds the raw value; `%` and `=` in the name are escaped, as GNU tar and
libarchive do. ACLs are written a second time as text, `SCHILY.acl.access`, and SELinux labels as
`RHT.security.selinux`, because `tar --acls`, `tar --selinux` and bsdtar look there. On reading, the
raw value comes first, then libarchive's, then these. The caller decodes values with
`surrogateescape`, so every byte survives.
"""

import binascii
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote_to_bytes

import msgspec

from ventifs.tree.objects.records import Xattrs
from ventifs.tree.tar.acl import from_text, permissions_of, text_of

_RAW = "SCHILY.xattr."
_LIBARCHIVE = "LIBARCHIVE.xattr."
_ACCESS = "SCHILY.acl.access"
_ACLS = {
    _ACCESS: b"system.posix_acl_access",
    "SCHILY.acl.default": b"system.posix_acl_default",
}
_NFS4_ACL = "SCHILY.acl.ace"
_LABEL = "RHT.security.selinux"
_LABEL_NAME = b"security.selinux"
_ESCAPED = re.compile(rb"%(3D|25)")
_UNESCAPED = {b"3D": b"=", b"25": b"%"}


def records_of(xattrs: Xattrs) -> Iterator[tuple[bytes, bytes]]:
    """The (keyword, value) records of a file's attributes."""
    for name, value in xattrs:
        escaped = name.replace(b"%", b"%25").replace(b"=", b"%3D")
        yield _RAW.encode() + escaped, value
    known = dict(xattrs)
    for keyword, name in _ACLS.items():
        if text := text_of(known.get(name, b"")):
            yield keyword.encode(), text.encode()
    if label := known.get(_LABEL_NAME):
        yield _LABEL.encode(), label  # with its NUL: bsdtar takes it as it stands


class PaxFacts(msgspec.Struct):
    """What pax records hold.

    Attributes:
        xattrs: sorted.
        problems: what could not be read, each in a few words.
        permissions: nine bits of the mode that an ACL in text decides: with one, libarchive writes
            a mode that no file with that ACL has.
    """

    xattrs: Xattrs = ()
    problems: list[str] = []
    permissions: int | None = None


def found_in(records: Mapping[str, str]) -> PaxFacts:
    """The attributes among pax records."""
    xattrs: dict[bytes, bytes] = {}
    found = PaxFacts()
    for keyword, text in records.items():
        if keyword.startswith(_RAW):
            name = _ESCAPED.sub(lambda found: _UNESCAPED[found[1]], _bytes(keyword[len(_RAW) :]))
            xattrs[name] = _bytes(text)
    for keyword, text in records.items():
        value = _bytes(text)
        try:
            if keyword.startswith(_LIBARCHIVE):
                name = unquote_to_bytes(_bytes(keyword[len(_LIBARCHIVE) :]))
                xattrs.setdefault(name, _base64(value))
            elif keyword in _ACLS:
                if _ACLS[keyword] not in xattrs and (acl := from_text(text)):
                    xattrs[_ACLS[keyword]] = acl
                    if keyword == _ACCESS:
                        found.permissions = permissions_of(acl)
            elif keyword == _LABEL:
                xattrs.setdefault(_LABEL_NAME, value.rstrip(b"\0") + b"\0")
            elif keyword == _NFS4_ACL:
                raise ValueError("Linux has no place for it")
        except ValueError as error:
            found.problems.append(f"{keyword} left out: {error}")
    sound = {name: value for name, value in xattrs.items() if name and b"\0" not in name}
    if len(sound) < len(xattrs):
        found.problems.append("an attribute without a sound name left out")
    found.xattrs = tuple(sorted(sound.items()))
    return found


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _base64(data: bytes) -> bytes:
    """Base64 as libarchive writes it, without padding."""
    return binascii.a2b_base64(data.rstrip(b"=") + b"=" * (-len(data.rstrip(b"=")) % 4))

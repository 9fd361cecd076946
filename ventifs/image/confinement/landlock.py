"""Landlock: a thread restricts what it, and all that it starts, can open.

Every right that this module and the running kernel know is denied: to files, and in newer kernels
to TCP sockets, signals to other processes and abstract sockets. Rules allow some files again. This
module knows system calls, and nothing of what is run.
"""

import ctypes
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from ventifs.errors import VentifsError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_ASK_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38  # of prctl
# linux/landlock.h
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG, _TRUNCATE, _IOCTL_DEV = (
    1 << bit for bit in (0, 1, 2, 3, 5, 8, 14, 15)
)
_SINCE = ((1, (1 << 13) - 1), (2, 1 << 13), (3, _TRUNCATE), (5, _IOCTL_DEV))  # rights, by version
_TCP_SINCE, _TCP = 4, 0b11  # to bind, to connect
_SCOPES_SINCE, _SCOPES = 6, 0b11  # abstract sockets, signals

RUN = _EXECUTE | _READ_FILE
READ = _READ_FILE | _IOCTL_DEV
READ_BENEATH = READ | _READ_DIR
WRITE = READ | _WRITE_FILE | _TRUNCATE
WRITE_BENEATH = WRITE | _READ_DIR | _REMOVE_FILE | _MAKE_REG

_libc = ctypes.CDLL(None, use_errno=True)


class NotConfined(VentifsError):
    """An operation cannot be confined here, and so is refused."""


class PathRule(NamedTuple):
    """Rights to a file or directory.

    Attributes:
        fd: of a file, or of a directory, which stands for everything beneath it.
        rights: `RUN`, `READ` or `WRITE`; for a directory, `READ_BENEATH` or `WRITE_BENEATH`.
    """

    fd: int
    rights: int


def version() -> int:
    """The kernel's version of Landlock; 0 if it has none, or it is turned off."""
    return max(0, _call(_CREATE_RULESET, None, 0, _ASK_VERSION))


def restrict(rules: Sequence[PathRule]) -> None:
    """Deny this thread, and what it starts, all that the rules do not allow; irreversible.

    Descriptors that are already open keep working.

    Raises:
        NotConfined: the kernel has no Landlock, or does not allow its use here.
    """
    have = version()
    if not have:
        raise NotConfined(
            "this kernel has no Landlock, which keeps it from opening other files; "
            "5.13 and later have it, with 'landlock' in the list of security modules ('lsm=')"
        )
    rights = sum(some for since, some in _SINCE if have >= since)
    attributes = struct.pack("=Q", rights)
    if have >= _TCP_SINCE:
        attributes += struct.pack("=Q", _TCP)
    if have >= _SCOPES_SINCE:
        attributes += struct.pack("=Q", _SCOPES)
    try:
        ruleset = _done(_call(_CREATE_RULESET, attributes, len(attributes), 0))
        try:
            for rule in rules:
                packed = struct.pack("=Qi", rule.rights & rights, rule.fd)
                _done(_call(_ADD_RULE, ruleset, _PATH_BENEATH, packed, 0))
            _done(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
            _done(_call(_RESTRICT_SELF, ruleset, 0))
        finally:
            os.close(ruleset)
    except OSError as error:
        raise NotConfined(f"Landlock cannot be used: {error.strerror}") from error


def _call(number: int, *arguments: int | bytes | None) -> int:
    words = (ctypes.c_long(word) if isinstance(word, int) else word for word in arguments)
    return int(_libc.syscall(ctypes.c_long(number), *words))


def _done(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

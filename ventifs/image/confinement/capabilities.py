"""Capabilities: a process of root gives up the rights that other users do not have.

Landlock restricts which files can be opened, but not whose mode or owner can be changed. This
module knows system calls, and nothing of what is run.
"""

import ctypes
import os
import struct

_NO_NEW_PRIVS = 38  # of prctl
_VERSION_3 = 0x2008_0522  # linux/capability.h
_READ_SEARCH = 1 << 2  # CAP_DAC_READ_SEARCH

_libc = ctypes.CDLL(None, use_errno=True)


def drop() -> None:
    """Give up all capabilities of this thread but one, for good.

    The one that stays, if the thread has it, is to read files whatever their modes are: Python's
    modules may lie in the directory of another user. For a process with a single thread.

    Raises:
        OSError: the kernel refuses.
    """
    header = struct.pack("=Ii", _VERSION_3, 0)
    held = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; twice
    _check(_libc.capget(header, held))
    (permitted,) = struct.unpack_from("=I", held, 4)
    kept = permitted & _READ_SEARCH
    _check(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(_libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

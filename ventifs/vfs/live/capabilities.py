"""The capabilities that a process of a live export keeps for its whole life.

Root's other rights are given up at the start, also for what the process might execute. This module
knows system calls alone.
"""

import ctypes
import os

from ventifs.vfs.live.syscalls import capabilities, set_capabilities

# linux/capability.h
CHOWN = 1 << 0
DAC_OVERRIDE = 1 << 1
DAC_READ_SEARCH = 1 << 2
FOWNER = 1 << 3
FSETID = 1 << 4
SETGID = 1 << 6
SETUID = 1 << 7
SETPCAP = 1 << 8
SYS_ADMIN = 1 << 21
MKNOD = 1 << 27
SETFCAP = 1 << 31

CHANGE_IDS = SETUID | SETGID
# To act as users, to find files by their handles, and to open them whatever their modes are.
SERVER = CHANGE_IDS | DAC_READ_SEARCH | DAC_OVERRIDE | FOWNER
# What root can do with files on the host; SYS_ADMIN is for `trusted.*` and `security.*`. Without
# SYS_RESOURCE, root too gets ENOSPC and EDQUOT when others do; without LINUX_IMMUTABLE, what is
# immutable stays so.
ROOT = CHOWN | FSETID | MKNOD | SETFCAP | SYS_ADMIN

_CAPABILITIES = 64  # more than any kernel has
_CAPBSET_READ, _CAPBSET_DROP, _NO_NEW_PRIVS, _CAP_AMBIENT, _AMBIENT_CLEAR = 23, 24, 38, 47, 4

_libc = ctypes.CDLL(None, use_errno=True)


def drop_privileges(*, root: bool) -> int:
    """Make this process fit to serve a live export: set its umask to 0, and drop capabilities.

    For the start of a process: all but a few capabilities leave the permitted and the bounding set,
    and nothing that the process executes gains any. Raise the limit on descriptors before it. Once
    a thread has acted as a user, the process is not dumpable, and the kernel has forgotten the
    thread's PR_SET_PDEATHSIG.

    Args:
        root: whether root in a guest is root here, with `squash` NONE.

    Returns:
        The capabilities that are kept, one bit each; 0 for a process of another user, and for one
        of root that may not act as users: every user of a guest would use them.

    Raises:
        RuntimeError: the process has several threads, which would keep theirs.
        OSError: the kernel refuses.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("privileges are dropped before other threads start")
    os.umask(0)
    _, permitted, _ = capabilities()
    wanted = (SERVER | ROOT if root else SERVER) if os.geteuid() == 0 else 0
    kept = permitted & wanted if permitted & CHANGE_IDS == CHANGE_IDS else 0
    for number in range(_CAPABILITIES):
        if not kept >> number & 1 and _libc.prctl(_CAPBSET_READ, number, 0, 0, 0) > 0:
            # Without SETPCAP it cannot, and NO_NEW_PRIVS alone keeps executed programs from more.
            _prctl(_CAPBSET_DROP, number, optional=not permitted & SETPCAP)
    _prctl(_CAP_AMBIENT, _AMBIENT_CLEAR)
    _prctl(_NO_NEW_PRIVS, 1)
    set_capabilities(kept, kept)
    return kept


def _prctl(option: int, argument: int, *, optional: bool = False) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) < 0 and not optional:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

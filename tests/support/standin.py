"""A live export's process whose files are a model, so that processes can be tested by themselves.

An attach copies the regular files of the directory that the descriptor leads to, and adds a file
that is named after what `view` was asked for.
"""

import errno
import os
import signal
import stat
from collections.abc import Callable
from typing import Any

from tests.support.memoryfs import MemoryFile, MemoryFilesystem
from ventifs.ninep.session.front_end import NinepFrontEnd
from ventifs.serving.live_sessions import LiveSessions, prepare_process
from ventifs.serving.worker import run_worker
from ventifs.serving.worker_ipc import Configure
from ventifs.tree.versions.catalog import split_path
from ventifs.vfs.interface import Blocking, Filesystem, Refused, User
from ventifs.vfs.live.export import LiveExport, Squashing

POISON = "poison"  # a file of this name ends the process at an attach


class Standin(MemoryFilesystem):
    """A directory's regular files, as they are at an attach."""

    def __init__(self, export: LiveExport, directory: int, squash: Squashing) -> None:
        super().__init__()
        self._export = export
        self._directory = directory
        self._squash = squash

    def attach(self, user: User, aname: bytes) -> MemoryFile:
        if split_path(aname.decode())[0] != self._export.name:
            raise Refused(errno.EXDEV)
        for name in os.listdir(self._directory):
            if name == POISON:
                os.kill(os.getpid(), signal.SIGSEGV)
            self.add(name, stat.S_IFREG | 0o644, name.encode())
        self.add(f"squash-{self._squash}", stat.S_IFREG | 0o644)
        self.add(f"umask-{os.umask(0)}", stat.S_IFREG | 0o644)
        self.allowed = {aname: b"/"}
        return super().attach(user, aname)


class StandinTrees:
    """See `LiveTrees`."""

    acts_as_users = True

    def __init__(self, export: LiveExport, directory: int) -> None:
        self._export = export
        self._directory = directory

    def view(self, squash: Squashing) -> Filesystem:
        return Standin(self._export, self._directory, squash)

    def close(self) -> None:
        os.close(self._directory)


def _opened(configure: Configure, fds: list[int]) -> LiveSessions:
    settings = configure.settings
    [export] = [each for each in settings.live if each.name == configure.export]
    prepare_process(root=export.squash == "none")
    return LiveSessions(settings, export, StandinTrees(export, fds[0]), NinepFrontEnd())


def standin_main() -> None:
    """All that the process does."""
    run_worker(_opened)


def _serve(made: type[StandinTrees]) -> None:
    """Serve trees of a kind, without what `prepare_process` does."""

    def opened(configure: Configure, fds: list[int]) -> LiveSessions:
        [export] = [each for each in configure.settings.live if each.name == configure.export]
        return LiveSessions(configure.settings, export, made(export, fds[0]), NinepFrontEnd())

    run_worker(opened)


class Stuck(Standin):
    """Its fsync waits in a thread until somebody opens the FIFO of that name in the directory."""

    def ready(self, call: str, key: Any, work: Callable[[], Any]) -> Any:
        if call == "fsync":
            raise Blocking(self._wait)
        return super().ready(call, key, work)

    def _wait(self) -> None:
        os.mkdir("begun", dir_fd=self._directory)
        os.close(os.open("fifo", os.O_RDONLY, dir_fd=self._directory))


class StuckTrees(StandinTrees):
    """Of files that are `Stuck`."""

    def view(self, squash: Squashing) -> Filesystem:
        return Stuck(self._export, self._directory, squash)


def stuck_main() -> None:
    """All that the process of such an export does."""
    _serve(StuckTrees)


class OwnTrees(StandinTrees):
    """Of a process that is not root's."""

    acts_as_users = False


def own_user_main() -> None:
    """All that the process does, if it is not root's."""
    _serve(OwnTrees)


def failing_main() -> None:
    """A process that cannot serve."""

    def fails(configure: Configure, fds: list[int]) -> LiveSessions:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    run_worker(fails)

"""Programs and parsers that can open only the files that they are given.

What a guest or a stranger wrote must not decide which files of this host are read. A program that
reads such data (qemu-img) can open its own executable and shared libraries, and the descriptors
that it is given. A parser in a forked child can open Python's modules. Memory and processor time
are limited, too. Where the kernel has no Landlock, a program that could open files that an image
names is not run; parsers run less confined, and a note reports it.
"""

import os
import resource
import shutil
import struct
import subprocess
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import NamedTuple

import ventifs
from ventifs.image.confinement import capabilities, landlock
from ventifs.image.confinement.landlock import NotConfined, PathRule

_LOADER_CACHE = "/etc/ld.so.cache"
_MEMORY_MAX = 4 << 30
_NOT_CONFINED = (
    "this kernel has no Landlock: what read the disk's partitions and file systems was not kept "
    "from opening other files of this host"
)
_ELF = b"\x7fELF\x02\x01"  # of 64 bits, little endian
_INTERPRETER = 3


class Given(NamedTuple):
    """The descriptors that a program may use, and open again by `path`.

    Attributes:
        reading: files and devices that it may read.
        writing: those that it may read and write.
        within: directories in which it may make, read, write and remove files.
    """

    reading: Sequence[int] = ()
    writing: Sequence[int] = ()
    within: Sequence[int] = ()

    @property
    def fds(self) -> list[int]:
        """All of them."""
        return [*self.reading, *self.writing, *self.within]

    @property
    def rules(self) -> list[PathRule]:
        """The rules that allow them."""
        return [
            *(PathRule(fd, landlock.READ) for fd in self.reading),
            *(PathRule(fd, landlock.WRITE) for fd in self.writing),
            *(PathRule(fd, landlock.WRITE_BENEATH) for fd in self.within),
        ]


def path(fd: int, name: bytes = b"") -> str:
    """The path by which a program opens a given descriptor, or a file in a given directory."""
    return f"/proc/self/fd/{fd}" + ("/" + os.fsdecode(name) if name else "")


def start(
    command: Sequence[str], given: Given, *, cpu_s: int = 0, required: bool = True
) -> "subprocess.Popen[bytes]":
    """Start a program, without input and with its output in pipes.

    A new thread confines itself, starts the program, and ends. The program stays confined, and the
    rest of this process is not.

    Args:
        command: its name or path, and its arguments.
        given: the descriptors that it can open, besides its own executable and libraries.
        cpu_s: the processor time that it may use, in seconds; 0 means no limit.
        required: whether to refuse to run it where the kernel has no Landlock. False is for
            programs whose input cannot refer to other files.

    Raises:
        NotConfined: Landlock is required and missing, or the program cannot be started.
        FileNotFoundError: it is not installed.
    """
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(command[0])
    program = os.path.realpath(program)
    with ExitStack() as stack:
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, nowhere)
        own = [name for name in (program, *_needed(program), _LOADER_CACHE) if os.path.exists(name)]
        rules = [
            *stack.enter_context(_opened(own, landlock.RUN)),
            *stack.enter_context(_opened([os.devnull], landlock.WRITE)),
            *given.rules,
        ]
        confined = required or landlock.version() > 0
        process = _Start([program, *command[1:]], given.fds, nowhere, rules, confined).process()
    _limit(process.pid, cpu_s)
    return process


def give_up_files() -> None:
    """Restrict this process to opening Python's own modules, and drop capabilities.

    For a forked child with a single thread. Where the kernel has no Landlock, the process can open
    files as before, and `note` says so.

    Raises:
        NotConfined: the kernel has Landlock, but does not allow its use.
        OSError: a directory of modules cannot be opened, or capabilities cannot be dropped.
    """
    if landlock.version():
        with _opened(_modules(), landlock.READ_BENEATH) as rules:
            landlock.restrict(rules)
    capabilities.drop()


def note() -> str:
    """A note for people where this kernel cannot confine parsers; empty where it can."""
    return "" if landlock.version() else _NOT_CONFINED


class _Start(threading.Thread):
    """The thread that starts a program."""

    def __init__(
        self,
        command: list[str],
        fds: list[int],
        nowhere: int,
        rules: list[PathRule],
        confined: bool,
    ) -> None:
        super().__init__(name="confined")
        self._command = command
        self._fds = fds
        self._nowhere = nowhere
        self._rules = rules
        self._confined = confined
        self._process: subprocess.Popen[bytes] | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            if self._confined:
                landlock.restrict(self._rules)
            self._process = subprocess.Popen(
                self._command,
                stdin=self._nowhere,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=self._fds,
            )
        except BaseException as error:
            self._error = error

    def process(self) -> "subprocess.Popen[bytes]":
        self.start()
        self.join()
        if isinstance(self._error, OSError):
            raise NotConfined(
                f"'{self._command[0]}' cannot be started: {self._error.strerror}"
            ) from self._error
        if self._error is not None:
            raise self._error
        assert self._process is not None
        return self._process


@contextmanager
def _opened(names: Iterable[str], rights: int) -> Iterator[list[PathRule]]:
    """Rules for some files or directories, which are open inside the context."""
    with ExitStack() as stack:
        rules: list[PathRule] = []
        for name in names:
            fd = os.open(name, os.O_PATH | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            rules.append(PathRule(fd, rights))
        yield rules


@lru_cache
def _needed(program: str) -> tuple[str, ...]:
    """The files that a program's start opens: its interpreter or loader, and shared libraries."""
    interpreter, script = _interpreter(program)
    if not interpreter:
        return ()
    if script:
        return interpreter, *_needed(os.path.realpath(interpreter))
    done = subprocess.run([interpreter, "--list", program], capture_output=True, check=False)
    words = (line.partition(b"=>")[2].split() or line.split() for line in done.stdout.splitlines())
    named = (os.fsdecode(word[0]) for word in words if word and word[0].startswith(b"/"))
    return tuple(dict.fromkeys([interpreter, *named]))


def _interpreter(program: str) -> tuple[str, bool]:
    """The interpreter or loader of a program, empty if none, and whether it is a script."""
    with open(program, "rb") as file:
        head = file.read(4096)
        if head.startswith(b"#!"):
            return os.fsdecode(head[2:].split(b"\n")[0].split()[0]), True
        if not head.startswith(_ELF):
            return "", False
        (table,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        for number in range(count):
            kind, _, place, _, _, length = struct.unpack_from(
                "<IIQQQQ", head, table + number * size
            )
            if kind == _INTERPRETER:
                file.seek(place)
                return os.fsdecode(file.read(length).rstrip(b"\0")), False
    return "", False


def _modules() -> list[str]:
    """Directories of Python's modules: parsers import modules and codecs on demand."""
    own = os.path.dirname(os.path.abspath(ventifs.__file__))
    named = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [name for name in dict.fromkeys([*named, own]) if os.path.isdir(name)]


def _limit(process: int, cpu_s: int) -> None:
    """Limit a process's memory and processor time; does nothing if it has ended."""
    with suppress(ProcessLookupError, PermissionError):
        resource.prlimit(process, resource.RLIMIT_CORE, (0, 0))
        resource.prlimit(process, resource.RLIMIT_AS, (_MEMORY_MAX, _MEMORY_MAX))
        if cpu_s:
            resource.prlimit(process, resource.RLIMIT_CPU, (cpu_s, cpu_s))

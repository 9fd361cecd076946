"""Runs many commands fast, on a terminal or through pipes.

Each command runs in a fork of one process that has all commands imported. On a terminal, progress
is drawn at every step.
"""

import base64
import fcntl
import importlib
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

PATIENCE_S = 120


class Said(NamedTuple):
    """The exit code and output of a command; on a terminal `out` and `err` both hold all of it."""

    code: int
    out: bytes
    err: bytes


class Commands:
    """Runs commands; a context manager."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        """Run commands in a directory, with these environment variables."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.terminals", os.fspath(directory)],
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, words: Sequence[str | bytes], *, terminal: bool) -> Said:
        """Run one to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        encoded = [base64.b64encode(os.fsencode(word)).decode() for word in words]
        self._process.stdin.write(json.dumps([encoded, terminal]) + "\n")
        self._process.stdin.flush()
        code, out, err = json.loads(self._process.stdout.readline())
        return Said(code, base64.b64decode(out), base64.b64decode(err))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()


def _terminal() -> tuple[int, int]:
    """The two ends of a terminal that does not change what is written."""
    ours, theirs = pty.openpty()
    modes = termios.tcgetattr(theirs)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, modes)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 2000, 0, 0))
    return ours, theirs


def _become(words: list[bytes], out: int, err: int) -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, 64)
    for number, name in (1, "stdout"), (2, "stderr"):
        setattr(sys, name, open(number, "w", errors="backslashreplace", closefd=False))  # noqa: SIM115
    from ventifs.cli.main import main

    sys.argv = ["ventifs", *map(os.fsdecode, words)]
    try:
        main()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    os._exit(99)


def _read(fds: dict[int, bytearray]) -> None:
    """Read everything until the other ends are closed."""
    left = set(fds)
    while left:
        ready, _, _ = select.select(sorted(left), [], [], PATIENCE_S)
        if not ready:
            raise TimeoutError
        for fd in ready:
            try:
                data = os.read(fd, 1 << 16)
            except OSError:  # the other end of the terminal is closed
                data = b""
            fds[fd] += data
            if not data:
                left.remove(fd)


def _run(words: list[bytes], *, terminal: bool) -> Said:
    ends = [_terminal()] if terminal else [os.pipe(), os.pipe()]
    pid = os.fork()
    if pid == 0:
        _become(words, ends[0][1], ends[-1][1])
    for _, theirs in ends:
        os.close(theirs)
    said = {ours: bytearray() for ours, _ in ends}
    _read(said)
    _, status = os.waitpid(pid, 0)
    for ours in said:
        os.close(ours)
    texts = [bytes(said[ours]) for ours, _ in ends]
    return Said(os.waitstatus_to_exitcode(status), texts[0], texts[-1])


def _serve(directory: str) -> None:
    from ventifs.cli import program, progress

    for module, _, _ in program.COMMANDS.values():
        importlib.import_module(module)
    progress._DRAWN_EVERY_S = 0.0
    os.chdir(directory)
    for line in sys.stdin:
        encoded, terminal = json.loads(line)
        said: Any = _run([base64.b64decode(word) for word in encoded], terminal=terminal)
        texts = [base64.b64encode(text).decode() for text in said[1:]]
        print(json.dumps([said.code, *texts]), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])

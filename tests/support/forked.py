"""Runs `ventifs` in processes that are forked from one which has imported it already.

A short command spends most of its time on starting Python and on imports. Here one process, started
as the command is, imports every module of the program once. Each command is a fork of it with its
own arguments, environment, directory, streams, umask and limits, and runs the installed script's
`main`: signals, workers, exit codes and the interpreter's end are real. Nothing of the test's own
process is in it.

The script itself is run where a fork would differ: for another user, another locale, or another
setting of Python. `tests/cli/test_forked.py` compares the two.
"""

import array
import atexit
import gc
import importlib
import json
import os
import pkgutil
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

SCRIPT = Path(sys.executable).parent / "ventifs"

_LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_")
_LATER = ("rich.console", "rich.progress", "rich.table", "trio", "platformdirs.unix")


def run(
    words: Sequence[str | bytes | Path],
    *,
    env: Mapping[str, str],
    cwd: Path,
    timeout_s: float,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> "subprocess.CompletedProcess[bytes]":
    """Run `ventifs` with its output captured, as `subprocess.run` does.

    Args:
        words: its arguments.
        env: its environment.
        cwd: its directory.
        timeout_s: how long it may write nothing.
        stdout: a descriptor that it gets as its output, which is not captured then.
        stderr: one for its errors.

    Raises:
        subprocess.TimeoutExpired: the command wrote nothing for `timeout_s`, and was killed.
    """
    command = [SCRIPT, *words]
    if (_of_a_start(env), _rights()) != _at_first():
        return subprocess.run(
            command,
            env=env,
            cwd=cwd,
            stdout=stdout,
            stderr=stderr,
            timeout=timeout_s,
            check=False,
        )
    request = {
        "words": [os.fsencode(word).hex() for word in words],
        "env": [[os.fsencode(name).hex(), os.fsencode(env[name]).hex()] for name in env],
        "cwd": os.fsencode(cwd).hex(),
        "umask": _umask(),
        "limits": [[limit, resource.getrlimit(limit)] for limit in _LIMITS],
    }
    server = _server()
    ours, theirs = socket.socketpair()
    out, out_end = os.pipe()
    errors, errors_end = os.pipe()
    passed = [
        theirs.fileno(),
        out_end if stdout == subprocess.PIPE else stdout,
        errors_end if stderr == subprocess.PIPE else stderr,
    ]
    try:
        server.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))])
    finally:
        for each in (theirs.detach(), out_end, errors_end):
            os.close(each)
    with ours, open(out, "rb", buffering=0), open(errors, "rb", buffering=0):
        ours.sendall(json.dumps(request).encode())
        ours.shutdown(socket.SHUT_WR)
        with ours.makefile("rb") as answer:
            pid = int(answer.readline())
            streams = _read(out, errors, timeout_s)
            if streams is None:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(command, timeout_s)
            return subprocess.CompletedProcess(command, int(answer.readline()), *streams)


def _of_a_start(env: Mapping[str, str]) -> dict[str, str]:
    """What of an environment is read when a process starts."""
    return {name: env[name] for name in env if name.startswith(_READ_AT_START)}


def _rights() -> tuple[object, ...]:
    """What else a process takes over from the one that starts it, but for what is in a request."""
    status = Path("/proc/thread-self/status").read_text().splitlines()
    kept = ("Cap", "NoNewPrivs", "SigBlk", "SigIgn")
    lines = [line for line in status if line.startswith(kept)]
    return os.getresuid(), os.getresgid(), os.getgroups(), lines


@cache
def _at_first() -> tuple[object, ...]:
    """What the process to fork from was started with."""
    return _of_a_start(os.environ), _rights()


def _umask() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line[6:], 8) for line in status.splitlines() if line.startswith("Umask:"))


def _read(out: int, errors: int, timeout_s: float) -> tuple[bytes, bytes] | None:
    """Read both streams to their ends; None if nothing comes for too long."""
    parts = {out: bytearray(), errors: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in parts:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(timeout_s)
            if not ready:
                return None
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                parts[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
    return bytes(parts[out]), bytes(parts[errors])


@cache
def _server() -> socket.socket:
    """Start the process to fork from; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        words = [sys.executable, "-P", __file__, str(theirs.fileno())]
        server = subprocess.Popen(words, pass_fds=[theirs.fileno()], cwd="/")
    this = os.getpid()

    def end() -> None:
        if os.getpid() == this:  # not in a fork of this process
            ours.close()
            server.wait()

    atexit.register(end)
    return ours


# --- the process that is forked from -------------------------------------------------------------


def _import_everything() -> None:
    import ventifs

    for module in pkgutil.walk_packages(ventifs.__path__, "ventifs."):
        importlib.import_module(module.name)
    for name in _LATER:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _next_command(control: socket.socket) -> list[str]:
    """Serve requests. Returns in each command's own process: its arguments."""
    while True:
        _, passed, _, _ = socket.recv_fds(control, 1, 3)
        if not passed:
            sys.exit()
        if os.fork() == 0:
            control.close()
            return _command(*passed)
        for each in passed:
            os.close(each)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _command(connection: int, out: int, errors: int) -> list[str]:
    """Fork a command, report how it ends, and exit. Returns in the command."""
    with socket.socket(fileno=connection) as asking:
        with asking.makefile("rb") as file:
            request: dict[str, Any] = json.loads(file.read())
        pid = os.fork()
        if pid != 0:
            os.close(out)
            os.close(errors)
            asking.sendall(b"%d\n" % pid)
            asking.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, number in ((out, 1), (errors, 2)):
        os.dup2(stream, number)
        os.close(stream)
    os.environb.clear()
    os.environb.update(
        (bytes.fromhex(name), bytes.fromhex(value)) for name, value in request["env"]
    )
    time.tzset()
    os.chdir(bytes.fromhex(request["cwd"]))
    os.umask(request["umask"])
    for limit, values in request["limits"]:
        resource.setrlimit(limit, values)
    return [os.fsdecode(bytes.fromhex(word)) for word in request["words"]]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))  # the program of this checkout
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests and their commands
    _import_everything()
    from ventifs.cli.main import main

    sys.argv = [str(SCRIPT), *_next_command(socket.socket(fileno=int(sys.argv[1])))]
    main()

"""SIGINT and SIGTERM at chosen moments of a command: one line at most, and an end.

The moments are calls of functions: a program that patches them runs the command, so that no test
depends on when a signal arrives.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commanding import PATIENCE_S, run
from tests.support.trees import plain_tree

INTERRUPTED = b"ventifs: interrupted; nothing committed was lost\n"
TERMINATED = b"ventifs: terminated; nothing committed was lost\n"
CODES = [("SIGINT", 130, INTERRUPTED), ("SIGTERM", 143, TERMINATED)]

IMPORTING = """
import importlib.abc, signal, sys

class Signalling(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == MODULE:
            signal.raise_signal(signal.SIGNAL)

assert MODULE not in sys.modules
sys.meta_path.insert(0, Signalling())
from ventifs.cli.main import main
main()
"""
CALLING = """
import importlib, signal
from ventifs.cli.main import main

def signalling(owner, name, numbers):
    call = getattr(owner, name)
    def wrapper(*arguments, **others):
        while numbers:
            signal.raise_signal(numbers.pop(0))
        return call(*arguments, **others)
    setattr(owner, name, wrapper)

def plan(module, *path, numbers):
    owner = importlib.import_module(module)
    for name in path[:-1]:
        owner = getattr(owner, name)
    signalling(owner, path[-1], [getattr(signal, number) for number in numbers])
"""

ASKING = """
import signal, trio
from ventifs.cli.serving import ninep
from ventifs.cli.main import main

class Asking:
    def __init__(self, *_, **__):
        pass
    async def __aenter__(self):
        for _ in range(2):
            signal.raise_signal(signal.SIGNAL)
        await trio.sleep_forever()
    async def __aexit__(self, *_):
        pass

ninep.Client.connect = Asking
main()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store `s` with a version of a small tree."""
    plain_tree(tmp_path / "tree")
    run(tmp_path, "init", "--store", "s")
    run(tmp_path, "archive", "tree", "--name", "t", "--store", "s")
    return tmp_path


def signalled(home: Path, program: str, words: str) -> tuple[int, bytes]:
    """The exit code of a command that a program runs, and what it says."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words.split()],
        cwd=home,
        capture_output=True,
        env={**os.environ, "VENTIFS_STORE": "s", "XDG_RUNTIME_DIR": str(home)},
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stderr


def calling(*plans: tuple[str, list[str]]) -> str:
    """A program in which the first calls of functions, `module:name`, send themselves signals."""
    lines = [CALLING]
    for where, numbers in plans:
        module, _, names = where.partition(":")
        lines.append(f"plan({module!r}, *{names.split('.')!r}, numbers={numbers!r})")
    return "\n".join([*lines, "main()"])


@pytest.mark.parametrize(("number", "code", "said"), CODES[:1])
@pytest.mark.parametrize(
    "module",
    [
        "click",
        "ventifs.cli.program",
        "ventifs.text",
        "ventifs.cli.upkeep.check",
        "ventifs.store",
    ],
)
def test_a_signal_while_modules_are_imported(
    home: Path, module: str, number: str, code: int, said: bytes
) -> None:
    program = IMPORTING.replace("MODULE", repr(module)).replace("SIGNAL", number)
    assert signalled(home, program, "check") == (code, said)


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "where",
    [
        "ventifs.cli.program:_interrupted",
        "ventifs.cli.program:echo",
        "ventifs.cli.program:_end",
        "ventifs.cli.interruption:end",
    ],
)
def test_a_second_signal_after_the_first(home: Path, where: str, second: str) -> None:
    program = calling(("ventifs.cli.upkeep.check:check.callback", ["SIGINT"]), (where, [second]))
    code, said = signalled(home, program, "check --read-data")
    assert code == {"SIGINT": 130, "SIGTERM": 143}[second]
    assert said in {b"", INTERRUPTED}


@pytest.mark.parametrize(("number", "code", "said"), CODES)
@pytest.mark.parametrize("words", ["check --read-data", "ls t:none"])
def test_a_signal_when_the_command_is_just_over(
    home: Path, words: str, number: str, code: int, said: bytes
) -> None:
    program = calling(("ventifs.cli.interruption:end", [number]))
    assert signalled(home, program, words) == (code, said)


@pytest.mark.parametrize(("number", "code", "said"), CODES)
def test_a_signal_when_its_result_is_being_reported(
    home: Path, number: str, code: int, said: bytes
) -> None:
    for where, words in ("_end", "versions"), ("_one_line", "ls t:none"):
        program = calling((f"ventifs.cli.program:{where}", [number]))
        assert signalled(home, program, words) == (code, b"")


@pytest.mark.parametrize("words", ["9p ls unix:///nowhere/s", "serve"])
@pytest.mark.parametrize(("number", "code", "said"), CODES)
def test_a_signal_where_trio_would_break(
    home: Path, words: str, number: str, code: int, said: bytes
) -> None:
    program = calling(("trio:run", [number]))
    assert signalled(home, program, words) == (code, said)
    program = calling(("trio:open_signal_receiver", [number]))
    assert signalled(home, program, words) == (code, said)


@pytest.mark.parametrize(("number", "code", "said"), CODES)
def test_two_signals_while_a_server_is_asked(
    home: Path, number: str, code: int, said: bytes
) -> None:
    program = ASKING.replace("SIGNAL", number)
    assert signalled(home, program, "9p ls unix:///nowhere/s") == (code, said)


@pytest.mark.parametrize(("number", "code", "said"), CODES)
def test_a_signal_where_python_drops_exceptions(
    home: Path, number: str, code: int, said: bytes
) -> None:
    program = CALLING + (
        "class Signalling:\n"
        f"    def __del__(self): signal.raise_signal(signal.{number})\n"
        "from ventifs.cli.upkeep import check\n"
        "check.check.callback = lambda **_: Signalling() and None\n"
        "main()"
    )
    assert signalled(home, program, "check") == (code, said)


def test_a_signal_that_the_parent_ignores_is_ignored(home: Path) -> None:
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + calling(
        ("ventifs.cli.upkeep.check:check.callback", ["SIGINT"]),
        ("ventifs.cli.program:_end", ["SIGINT"]),
    )
    assert signalled(home, program, "check") == (0, b"")

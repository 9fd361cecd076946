"""`ventifs serve` as a process, and its output."""

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.support import forked
from tests.support.patience import PATIENCE_S as PATIENCE_S
from tests.support.patience import wait_until

ROOT = Path(__file__).parents[2]
# The command of this checkout, wherever the installed package comes from.
VENTIFS = [
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'ventifs'; "
    "from ventifs.cli.main import main; main()",
]


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which the user's data is in `home/data`, and sockets in `home/run`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"VENTIFS_STORE", "NOTIFY_SOCKET", "LISTEN_PID"}
    }
    (home / "run").mkdir(exist_ok=True)
    return {
        **kept,
        "XDG_DATA_HOME": str(home / "data"),
        "RUNTIME_DIRECTORY": str(home / "run"),
        **more,
    }


def ventifs(home: Path, *words: str, expected: int = 0) -> "subprocess.CompletedProcess[bytes]":
    """Run a command to its end."""
    done = forked.run(words, env=environment(home), cwd=home, timeout_s=PATIENCE_S)
    assert done.returncode == expected, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


class Serve:
    """A running server; a context manager that kills it at the end."""

    def __init__(self, home: Path, *words: str, lines: int = 1, **more: Any) -> None:
        """Start it, and wait until it has printed this many lines."""
        self.home = home
        self._log = home / "log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*VENTIFS, "serve", *words],
                env=environment(home, **more.pop("env", {})),
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                **more,
            )
        self.said = [self._line() for _ in range(lines)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def log(self) -> str:
        """Its standard error so far."""
        return self._log.read_text()

    @property
    def addresses(self) -> list[str]:
        """The addresses that it has printed."""
        return [found[1] for line in self.said if (found := re.match(r"listening on (.+)", line))]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, and wait; return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def workers(self) -> list[int]:
        """The processes it has started."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def heard(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until its log has this many matches of a pattern; return the matches."""
        found: list[str] = []

        def enough() -> bool:
            found[:] = re.findall(pattern, self.log)
            return len(found) >= times

        wait_until(
            enough,
            unless=lambda: self.process.poll() is not None and f"no {pattern!r} in:\n{self.log}",
        )
        return found

    def _line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            raise AssertionError(f"the server said nothing:\n{self.log}")
        return line.rstrip("\n")

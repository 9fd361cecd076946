"""All long suites of live trees, with real clients and kernels: see tools/suites.

Prints a line for each run: NAME kind kernel: passed or failed (seconds). The evidence of a failure
lies in a file whose name is printed. The exit status is 1 if any failed.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support import emulated, segment, uml
from tests.support.segment import FIRST, SECOND, Segment, missing_programs, tail
from tests.support.trees import remove
from tools.suite.setting import (
    KINDS,
    SERVERS,
    UML,
    Guests,
    Setting,
    Suite,
    available_kernels,
)
from tools.suite.suites import SUITES

WORK = Path("/var/tmp/ventifs-suites")


@dataclass(frozen=True)
class Result:
    """How a suite ended; `said` is what it found out, or where its evidence is."""

    name: str
    kind: str
    kernel: str
    server: str
    result: str
    seconds: float
    said: str

    def line(self) -> str:
        """For the terminal."""
        more = f"  {self.said}" if self.said else ""
        return f"{self.name} {self.kind} {self.kernel}: {self.result} ({self.seconds:.0f} s){more}"


class Runner:
    """Runs suites one after the other; guests of a kernel stay for the next."""

    def __init__(self, told: argparse.Namespace) -> None:
        """Make the work directory, which only root enters."""
        self.told = told
        self.work: Path = told.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.work.chmod(0o700)
        self.kernels = available_kernels(self.work)

    def plan(self) -> list[tuple[Suite, str, str]]:
        """What to run: suites, kinds and kernels, by kernel."""
        told = self.told
        names = told.names or [suite.name for suite in SUITES]
        chosen = [suite for suite in SUITES if suite.name in names]
        return [
            (suite, kind, kernel)
            for kernel in told.kernel or self.wanted(chosen)
            for suite in chosen
            if told.kernel or kernel in suite.kernels
            for kind in (suite.kinds if told.server != "local" else suite.kinds[-1:])
            if not told.kind or kind in told.kind
        ]

    def wanted(self, chosen: list[Suite]) -> list[str]:
        """The kernels that suites name, User-mode Linux first."""
        return sorted({kernel for suite in chosen for kernel in suite.kernels}, key=_rank)

    def why_not(self, suite: Suite, kernel: str) -> str:
        """Why a suite cannot run here; empty if it can."""
        server = self.told.server
        if server == "local" and not suite.local:
            return "it is of no use on a local file system"
        if server != "local" and server not in suite.servers:
            return f"it is of no use with {server}"
        if kernel not in self.kernels:
            return f"no kernel {kernel}: tools/suites --fetch-kernel gets it from Debian"
        if kernel != UML and (why := emulated.why_not()):
            return why
        missing = missing_programs([*suite.programs, *(["diod"] if server == "diod" else [])])
        return f"needs {' '.join(missing)}" if missing else ""

    def run(self) -> list[Result]:
        """Run everything that is planned."""
        results = []
        with Segment(FIRST, SECOND) as network:
            guests: dict[str, Guests] = {}
            for suite, kind, kernel in self.plan():
                if why := self.why_not(suite, kernel):
                    result = Result(suite.name, kind, kernel, self.told.server, "skipped", 0, why)
                else:
                    for name, others in guests.items():
                        if name != kernel:
                            others.kill()
                    ours = guests.setdefault(
                        kernel, Guests(network, self.work, self.kernels[kernel])
                    )
                    result = self.run_one(suite, kind, kernel, network, ours)
                results.append(result)
                print(result.line(), flush=True)
            for each in guests.values():
                each.kill()
        return results

    def run_one(
        self, suite: Suite, kind: str, kernel: str, network: Segment, guests: Guests
    ) -> Result:
        """Run one suite."""
        told = self.told
        directory = Path(tempfile.mkdtemp(prefix=f"{suite.name}-", dir=self.work))
        setting = Setting(
            told.server, kind, self.work, directory, told.scale, network, guests, told.options
        )
        begun = time.monotonic()
        try:
            said, result = suite.run(setting) or "", "passed"
        except KeyboardInterrupt:
            guests.kill()
            remove(directory)
            raise
        except Exception as error:
            said, result = str(self.evidence(setting, suite, kind, kernel, error)), "failed"
            guests.kill()
        seconds = time.monotonic() - begun
        if not (told.keep and result == "failed"):
            remove(directory)
        return Result(suite.name, kind, kernel, told.server, result, seconds, said)

    def evidence(
        self, setting: Setting, suite: Suite, kind: str, kernel: str, error: Exception
    ) -> Path:
        """Write what is known of a failure; return where."""
        results = self.work / "results"
        results.mkdir(exist_ok=True)
        path = results / f"{setting.server}-{suite.name}-{kind}-{kernel}.txt"
        log = tail(setting.log, 100) if setting.log.exists() else ""
        trace = "".join(traceback.format_exception(error))
        where = f"\n\nthe server's log:\n{log}"
        path.write_text(f"{error}{where}\n\n{trace}", errors="surrogateescape")
        return path


def _rank(kernel: str) -> tuple[bool, str]:
    return kernel != UML, kernel


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="tools/suites", description=__doc__)
    made.add_argument("names", nargs="*", metavar="NAME", help="suites; all by default")
    made.add_argument("--list", action="store_true", help="list the suites")
    made.add_argument("--server", choices=SERVERS, default="ventifs")
    made.add_argument("--kind", action="append", choices=list(KINDS))
    made.add_argument("--kernel", action="append", help="instead of those of each suite")
    made.add_argument("--scale", type=float, default=1, help="how much each does; 1 is all")
    made.add_argument("--options", default="", help="more mount options")
    made.add_argument("--work", type=Path, default=WORK, help="for what is made once")
    made.add_argument("--keep", action="store_true", help="keep the directories of failures")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return made


def main() -> None:
    command = parser()
    told = command.parse_args()
    known = {suite.name for suite in SUITES}
    if unknown := set(told.names) - known:
        command.exit(2, f"tools/suites: no suite {' '.join(sorted(unknown))}; see --list\n")
    if told.list:
        for suite in SUITES:
            where = f"{', '.join(suite.kinds)}; {', '.join(suite.kernels)}"
            print(f"{suite.name:12}{suite.about:50}{where}")
        return
    if why := segment.why_not() or uml.why_not():
        command.exit(1, f"tools/suites: {why}\n")
    with suppress(KeyboardInterrupt):
        results = Runner(told).run()
        if told.json:
            lines = json.dumps([asdict(result) for result in results], indent=1)
            told.json.write_text(f"{lines}\n")
        ends = Counter(result.result for result in results)
        print(", ".join(f"{ends[end]} {end}" for end in ("passed", "failed", "skipped")))
        sys.exit(1 if ends["failed"] else 0)
    sys.exit(130)


if __name__ == "__main__":
    main()

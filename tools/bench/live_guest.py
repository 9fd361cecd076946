"""The guest's rows of the bench of live trees: a User-mode Linux guest's own programs.

Every run has a new mount and a new directory in the tree, so that the guest's caches are empty; the
server's are warm after the first. Seconds are the guest's. Where a program works for a fixed time,
the rate that it prints counts.
"""

import json
import os
import re
import shlex
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from tests.support import servers
from tests.support.memory import family
from tests.support.segment import HOST, Segment
from tests.support.uml import Uml
from tools.bench.contestants import Diod, Live, Result, stat
from tools.bench.live_disk import Contents
from tools.bench.rounds import Rounds, Target

PATIENCE_S = 1800
PORTS = {"ventifs": 564, "diod": 5640}
MSIZE = {"ventifs": Live.msize_max, "diod": Diod.msize_max}
_TICKS = os.sysconf("SC_CLK_TCK")
READING: Target = (1.0, "aim 1.5")
WRITING: Target = (0.8, "aim 1.2")


def fio_rate(printed: str) -> float:
    """Operations a second of a job, from fio's JSON."""
    job = json.loads(printed[printed.index("{") :])["jobs"][0]
    return float(job["read"]["iops"] + job["write"]["iops"])


def dbench_rate(printed: str) -> float:
    """Bytes a second, from dbench's last line."""
    found = re.search(r"^Throughput ([\d.]+) MB/sec", printed, re.MULTILINE)
    assert found, f"dbench printed no throughput:\n{printed[-2000:]}"
    return float(found[1]) * 1e6


@dataclass(frozen=True)
class Work:
    """What a guest does in a new directory of the tree, by a shell script.

    Attributes:
        script: knows $mib (of large files), $files, $seconds, $some (files and transactions of
            what works in batches), $tar and $data (by their paths on the host).
        figure: as in rounds.py.
        rate: takes it from what the script prints; else it is the seconds, or $mib in them.
        same: whether it prints the same for both servers.
        first: a script for one run before all, on a mount of diod.
    """

    target: Target
    script: str
    figure: str = "seconds"
    rate: Callable[[str], float] | None = None
    same: bool = False
    first: str = ""


_GIT = "git -c safe.directory='*' -C ../repository"
_CREATE = """
import os, sys
for number in range(int(sys.argv[1])):
    fd = os.open(f"file{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, bytes(4096))
    os.close(fd)
for number in range(int(sys.argv[1])):
    os.unlink(f"file{number}")
"""


def _fio(kind: str, depth: int) -> Work:
    script = (
        f"fio --name=bench --filename=../data --size=$(($mib / 4))m --bs=4k --rw=rand{kind}"
        f" --ioengine=psync --thread --numjobs={depth} --time_based --runtime=$seconds"
        " --group_reporting --output-format=json"
    )
    return Work(WRITING, script, "ops_s", fio_rate)


def _dbench(clients: int) -> Work:
    script = f"dbench -c /usr/share/dbench/client.txt -t $(($seconds * 2)) -D . {clients}"
    return Work(WRITING, script, "bytes_s", dbench_rate)


WORK = {
    "guest sequential write": Work(
        READING, "dd if=/dev/zero of=written bs=1M count=$mib status=none", "bytes_s"
    ),
    "guest sequential read": Work(
        READING, "dd if=../data of=/dev/null bs=1M status=none", "bytes_s"
    ),
    "guest stat": Work(
        READING, "find ../root -type f -exec stat -c '%n %s' {} + | sort | md5sum", same=True
    ),
    "guest find": Work(READING, "find ../root -type f | wc -l", same=True),
    "guest create 4 KiB and unlink": Work(
        WRITING, f"/usr/bin/python3 -c {shlex.quote(_CREATE)} $files"
    ),
    "guest fio read depth 1": _fio("read", 1),
    "guest fio read depth 16": _fio("read", 16),
    "guest fio write depth 1": _fio("write", 1),
    "guest fio write depth 16": _fio("write", 16),
    "guest dbench 1": _dbench(1),
    "guest dbench 4": _dbench(4),
    "guest postmark": Work(
        WRITING,
        "printf 'set number %s\\nset transactions %s\\nrun\\nquit\\n' $some $some | postmark",
    ),
    "guest bonnie++": Work(
        WRITING,
        "bonnie++ -d . -u root -f -q -r $(($mib / 32)) -s $(($mib / 16)):64k"
        " -n $(($some / 1000 + 1)):16384:1024",
    ),
    "guest untar": Work(WRITING, "tar -xf $tar"),
    # Linux's client gives inodes other numbers than the host: git would read what is not in its
    # index with these.
    "guest git status": Work(
        WRITING,
        f"GIT_OPTIONAL_LOCKS=0 {_GIT} status --short",
        same=True,
        first=f"{_GIT} update-index -q --refresh",
    ),
}
TARGETS: dict[str, Target] = {name: work.target for name, work in WORK.items()}


class Guest:
    """A guest with both servers of the tree."""

    def __init__(self, contents: Contents, options: Namespace, stack: ExitStack) -> None:
        """Start all three, to end with the stack."""
        self.contents, self.options = contents, options
        directory = contents.tar.parent
        network = stack.enter_context(Segment())
        self.anames = {"ventifs": "live", "diod": str(contents.tree)}
        diod = stack.enter_context(
            servers.diod(
                network, directory / "diod.log", contents.tree, port=PORTS["diod"], writable=True
            )
        )
        log, port = directory / "ventifs.log", PORTS["ventifs"]
        if options.again:
            self.anames["ventifs"] = self.anames["diod"]
            ours = servers.diod(network, log, contents.tree, port=port, writable=True)
        else:
            trees = {"live": contents.tree}
            ours = servers.live(network, log, trees, port=port, sharing=options.sharing)
        self.servers = {"ventifs": stack.enter_context(ours), "diod": diod}
        self.uml = stack.enter_context(Uml(network, directory / "guest"))

    def run(self, server: str, work: Work) -> Result:
        """Do work on a new mount of a server."""
        msize = MSIZE["diod" if self.options.again else server]
        mount = (
            f"trans=tcp,version=9p2000.L,uname=root,cache={self.options.cache},msize={msize},"
            f"port={PORTS[server]},aname={self.anames[server]}"
        )
        with self.contents.work() as name, self.uml.mounted("tree", HOST, mount):
            script = f"{self._sizes()}\ncd tree/{name}\nset +u\n"
            script += f'date +%s.%N\nsaid=$({work.script} 2>&1)\ndate +%s.%N\necho "$said"'
            cpu = self._cpu_s(server)
            start, end, *lines = self.uml.succeed(script, patience_s=PATIENCE_S).splitlines()
            cpu = self._cpu_s(server) - cpu
        seconds, said = float(end) - float(start), "\n".join(lines)
        result: Result = {"seconds": seconds, "server_cpu_s": cpu, "said": said}
        if work.rate:
            result[work.figure] = work.rate(said)
        elif work.figure == "bytes_s":
            result["bytes_s"] = self.contents.bytes / seconds
        return result

    def _sizes(self) -> str:
        scale = float(self.options.scale)
        return (
            f"mib={self.contents.bytes >> 20} files={max(int(10_000 * scale), 100)}"
            f" seconds={max(int(4 * scale), 1)} some={max(int(2000 * scale), 500)}"
            f" tar={shlex.quote(str(self.contents.tar))}"
        )

    def _cpu_s(self, server: str) -> float:
        rows = [stat(pid) for pid in family(self.servers[server].process.pid)]
        return sum(int(row[11]) + int(row[12]) for row in rows if row) / _TICKS


def measure(rounds: Rounds, chosen: set[str], contents: Contents, options: Namespace) -> None:
    """Measure the chosen rows."""
    names = [name for name in WORK if name in chosen]
    if not names:
        return
    with ExitStack() as stack:
        guest = Guest(contents, options, stack)
        for name in names:
            work = WORK[name]
            if work.first:
                guest.run("diod", replace(work, script=work.first, rate=None))
            said: set[str] = set()

            def run_of(server: str, work: Work = work, said: set[str] = said) -> Result:
                result = guest.run(server, work)
                said.add(result["said"])
                return result

            rounds.compare(
                name, lambda: run_of("ventifs"), lambda: run_of("diod"), "diod", work.figure
            )
            assert not work.same or len(said) == 1, f"{name}: the servers' trees differ: {said}"

"""The emulated rows of the bench of live trees: beside QEMU's virtio-9p, without a bound.

One guest of QEMU (TCG, Debian's stock kernel) has the tree twice: as QEMU's own virtio-9p device
with security_model=passthrough, and over TCP from ventifs. Its programs take turns on both. An
emulated processor is slow, so that these ratios show servers less than all others do.
"""

import re
import shutil
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from tests.support import qemu, servers
from tests.support.initramfs import kernels, scripted
from tests.support.segment import GUEST, HOST, PREFIX, TAP, Segment
from tools.bench.contestants import Diod, Live, Result
from tools.bench.live_disk import Contents
from tools.bench.live_guest import dbench_rate
from tools.bench.rounds import Rounds, Runs, Target, show, tell

OTHER = "virtio-9p"
VIRTIO_MSIZE = 512_000  # the largest that 9pnet_virtio of Linux 6.1 takes
MODULES = ("virtio_pci", "virtio_net", "9p", "9pnet_fd", "9pnet_virtio")
PROGRAMS = [Path(path) for path in ("/usr/bin/dbench", "/usr/bin/postmark", "/usr/sbin/bonnie++")]
DBENCH_LOAD = Path("/usr/share/dbench/client.txt")

# Row -> its command, as in live_guest.py, and its figure.
WORK = {
    "tcg dbench 1": ("dbench -c /client.txt -t $(($seconds * 2)) -D . 1", "bytes_s"),
    "tcg dbench 4": ("dbench -c /client.txt -t $(($seconds * 2)) -D . 4", "bytes_s"),
    "tcg postmark": (
        "printf 'set number %s\\nset transactions %s\\nrun\\nquit\\n' $some $some | postmark",
        "seconds",
    ),
    "tcg bonnie++": (
        "bonnie++ -d . -u root -f -q -r $(($mib / 32)) -s $(($mib / 16)):64k -n 1:16384:1024",
        "seconds",
    ),
}
TARGETS: dict[str, Target] = dict.fromkeys(WORK, (0, "no bound"))

_MOUNTS = """
mkdir -p /etc /tmp /ventifs /virtio-9p
echo root:x:0:0::/:/bin/sh >/etc/passwd
echo root:x:0: >/etc/group
ip link set lo up; ip link set eth0 up; ip address add {guest}/{prefix} dev eth0
options=version=9p2000.L,uname=root,cache={cache}
mount -t 9p -o "$options,trans=virtio,msize={virtio_msize}" live /virtio-9p || exit
mount -t 9p -o "$options,trans=tcp,port={port},aname={aname},msize={msize}" {host} /ventifs || exit
cp /virtio-9p/client.txt /client.txt
seconds={seconds} some={some} mib={mib}
"""

# Prints a line `took NAME SERVER START END` after what the command prints.
_RUN = """
mkdir /{server}/work && cd /{server}/work || exit
start=$(cut -d ' ' -f 1 /proc/uptime)
({command}) >/output 2>&1 || {{ tail /output; exit 1; }}
end=$(cut -d ' ' -f 1 /proc/uptime)
cd / && rm -rf /{server}/work
grep ^Throughput /output
echo "took {server} $start $end {name}"
"""


def measure(rounds: Rounds, chosen: set[str], contents: Contents, options: Namespace) -> None:
    """Measure the chosen rows in one guest, and print them."""
    names = [name for name in WORK if name in chosen]
    if not names:
        return
    tell("an emulated guest")
    shutil.copy(DBENCH_LOAD, contents.tree / "client.txt")
    directory = contents.tar.parent / "tcg"
    directory.mkdir()
    with Segment() as network:
        if options.again:
            aname, msize = str(contents.tree), Diod.msize_max
            server = servers.diod(network, directory / "log", contents.tree, writable=True)
        else:
            aname, msize = "live", Live.msize_max
            trees = {"live": contents.tree}
            server = servers.live(network, directory / "log", trees, sharing=options.sharing)
        with server:
            script = _MOUNTS.format(
                guest=GUEST,
                prefix=PREFIX,
                host=HOST,
                port=server.port,
                cache=options.cache,
                virtio_msize=VIRTIO_MSIZE,
                aname=aname,
                msize=msize,
                seconds=max(int(4 * options.scale), 1),
                some=max(int(500 * options.scale), 50),
                mib=contents.bytes >> 20,
            )
            for name in names:
                for _ in range(rounds.rounds):
                    for at in (OTHER, "ventifs"):
                        script += _RUN.format(server=at, command=WORK[name][0], name=name)
            console = booted(network, directory, script, contents.tree)
    tell("")
    for name, runs in results(console, names).items():
        rounds.results[name] = runs
        show(name, runs, WORK[name][1], TARGETS[name])


def booted(network: Segment, directory: Path, script: str, tree: Path) -> str:
    """Run a script in an emulated guest; its console output."""
    kernel = kernels()[-1]
    initrd = scripted(directory, kernel, script, MODULES, PROGRAMS)
    fsdev = f"local,id=live,path={tree},security_model=passthrough,multidevs=remap"
    console = qemu.boot(
        kernel,
        initrd,
        directory / "console.log",
        append="quiet",
        network=["tap", "id=net", f"ifname={TAP}", "script=no", "downscript=no"],
        segment=network,
        devices=["-fsdev", fsdev, "-device", "virtio-9p-pci,fsdev=live,mount_tag=live"],
    )
    assert "script ended with 0" in console, f"the guest's script failed:\n{console[-4000:]}"
    return console


def results(console: str, names: list[str]) -> dict[str, Runs]:
    """The runs by row and server, from what a guest has printed."""
    found: dict[str, Runs] = {name: {OTHER: [], "ventifs": []} for name in names}
    printed = ""
    for line in console.splitlines():
        took = re.fullmatch(r"took (\S+) (\S+) (\S+) (.+)", line.strip())
        if took is None:
            printed += f"{line.strip()}\n"
            continue
        server, start, end, name = took.groups()
        result: Result = {"seconds": float(end) - float(start)}
        with suppress(AssertionError):  # programs other than dbench print no rate
            result["bytes_s"] = dbench_rate(printed)
        found[name][server].append(result)
        printed = ""
    return found

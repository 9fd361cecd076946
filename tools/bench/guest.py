"""What a guest waits for: its own commands on a version that ventifs serves, and on diod's.

The guest is User-mode Linux, its client the kernel's, with the same mount options for both servers;
diod serves the very directory that the version was archived from. In every round each server gets
a new mount, so that the guest's caches are empty, and does all commands; who begins changes from
round to round. The first round warms the host's and the servers' caches and is not counted. Figures
are medians of seconds, and a ratio is the median of the rounds' own ratios: above 1, ventifs was
faster.
"""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.support import segment, servers, uml
from tests.support.segment import HOST, Segment, missing_programs, tail
from tests.support.serving import EVERYBODY, archive, command
from tests.support.trees import remove
from tests.support.uml import Uml

PORTS = {"ventifs": 564, "diod": 5640}
PATIENCE_S = 300
FILES = 2000
OPTIONS = "ro,trans=tcp,version=9p2000.L,uname=root,msize=1048576,cache=none"

# Each runs in the mounted tree, and must print the same for both servers. `$files` lists the
# files for `cat`, and `$large` is the largest file.
COMMANDS = {
    "find -type f": "find . -type f | wc -l",
    "find -exec stat": "find usr/share/doc -type f -exec stat -c '%n %s' {} + | sort | md5sum",
    f"cat {FILES:,} files": 'xargs -d "\\n" cat <"$files" | md5sum',
    "dd a large file": 'for n in 1 2 3; do dd if="$large" bs=1M status=none of=/dev/null; done;'
    ' dd if="$large" bs=1M status=none | md5sum',
}

Seconds = dict[str, dict[str, list[float]]]  # by command and server


def timed(guest: Uml, server: str, aname: str, root: Path) -> dict[str, tuple[float, str]]:
    """Seconds and output of each command on a new mount of one server."""
    options = f"{OPTIONS},port={PORTS[server]},aname={aname}"
    script = f"large={shlex.quote(largest(root))} files=$PWD/../files\ncd tree\n"
    for words in COMMANDS.values():
        script += f'date +%s.%N; said=$({words}); date +%s.%N; echo "$said"\n'
    with guest.mounted("tree", HOST, options):
        lines = guest.succeed(script, patience_s=PATIENCE_S).splitlines()
    return {
        name: (float(lines[at + 1]) - float(lines[at]), lines[at + 2])
        for at, name in zip(range(0, len(lines), 3), COMMANDS, strict=True)
    }


def largest(root: Path) -> str:
    """The largest file below a directory, holes not counted, by its path in it."""
    found = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return str(max(found, key=lambda path: path.stat().st_blocks).relative_to(root))


def small_files(root: Path) -> list[str]:
    """Up to `FILES` small files, spread over the tree, by their paths in it."""
    found = sorted(
        str(path.relative_to(root))
        for path in (root / "usr").rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and path.stat().st_size < 1 << 20
        and str(path).isprintable()
    )
    return found[:: max(len(found) // FILES, 1)][:FILES]


def measure(root: Path, rounds: int, directory: Path) -> Seconds:
    """Measure both servers in rounds, one after the other in the same guest."""
    seconds: Seconds = {name: {server: [] for server in PORTS} for name in COMMANDS}
    store = directory / "store"
    segment_log = directory / "ventifs.log", directory / "diod.log"
    with Segment() as network:
        network.run(*command("init", "--store", store), capture_output=True)
        anames = {"ventifs": archive(store, root, "tree"), "diod": str(root)}
        with (
            servers.ventifs(network, segment_log[0], store, *EVERYBODY, port=PORTS["ventifs"]),
            servers.diod(network, segment_log[1], root, port=PORTS["diod"]),
            Uml(network, directory / "guest") as guest,
        ):
            (guest.directory / "files").write_text("\n".join(small_files(root)) + "\n")
            for turn in range(rounds + 1):
                order = sorted(PORTS, reverse=bool(turn % 2))
                told = {server: timed(guest, server, anames[server], root) for server in order}
                for name in COMMANDS:
                    outputs = {told[server][name][1] for server in PORTS}
                    assert len(outputs) == 1, f"{name}: the servers' trees differ: {outputs}"
                    for server in PORTS if turn else ():
                        seconds[name][server].append(told[server][name][0])
    return seconds


def report(seconds: Seconds) -> None:
    """Print the table of medians and ratios."""
    print(f"{'':18}{'ventifs':>10}{'diod':>10}{'ratio':>8}  target")
    for name, by in seconds.items():
        ratio = median(
            theirs / ours for ours, theirs in zip(by["ventifs"], by["diod"], strict=True)
        )
        ours, theirs = median(by["ventifs"]), median(by["diod"])
        missed = "" if ratio >= 1 else "  missed"
        print(f"{name:18}{ours:9.2f}s{theirs:9.2f}s{ratio:8.2f}  1.00{missed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there, too")
    told = parser.parse_args()
    missing = " ".join(missing_programs(["diod"]))
    why = segment.why_not() or uml.why_not() or (missing and f"needs {missing}")
    if why:
        parser.exit(1, f"tools/bench/guest: {why}\n")
    directory = Path(tempfile.mkdtemp(prefix="bench-guest-"))
    try:
        seconds = measure(told.root, told.rounds, directory)
    except AssertionError:
        for log in directory.glob("*.log"):
            print(f"{log.name}:\n{tail(log)}", file=sys.stderr)
        raise
    finally:
        remove(directory)
    report(seconds)
    if told.json:
        told.json.write_text(json.dumps(seconds, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The main job on real input: archive a directory, twice, look into it, and bring it back.

Archives a directory, again as on the next night, and a tar stream of it; restores the one and
unpacks the other by tar; serves the store over 9P and gets the whole tree through it; compares what
came back with the original by `diff -r`, checks every byte of the store, throws its index away and
makes it anew.
"""

import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VENTIFS = Path(sys.executable).with_name("ventifs")


def run(*command: str | Path) -> None:
    """Run `ventifs` as a person would, showing the line."""
    print(f"\n$ ventifs {shlex.join(map(str, command))}", flush=True)
    subprocess.run([VENTIFS, *command], check=True)


def pipe(line: str) -> None:
    """Run a line of several commands, showing it."""
    print(f"\n$ {line}", flush=True)
    directory = shlex.quote(str(VENTIFS.parent))
    subprocess.run(["bash", "-o", "pipefail", "-c", f"PATH={directory}:$PATH; {line}"], check=True)


def compare(source: Path, target: Path) -> None:
    """Let `diff` look for differences."""
    subprocess.run(["diff", "-r", "--no-dereference", source, target], check=True)
    print(f"diff -r finds no difference between {source} and what came back")


@contextmanager
def served(store: Path, address: str) -> Iterator[None]:
    """Have the store served at an address, from the moment that it takes connections."""
    command = ["serve", address, "--store", str(store)]
    print(f"\n$ ventifs {shlex.join(command)} &", flush=True)
    with subprocess.Popen([VENTIFS, *command], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        print(server.stdout.readline(), end="", flush=True)
        try:
            yield
        finally:
            server.terminate()
    if server.returncode:
        sys.exit(f"ventifs serve ended with {server.returncode}")


def main() -> None:
    """Run the demo in a temporary directory."""
    usual = Path("/usr/lib/python3.11")  # of Debian 12
    default = usual if usual.is_dir() else sysconfig.get_paths()["stdlib"]
    source = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    with tempfile.TemporaryDirectory(prefix="ventifs-demo-") as directory:
        store, target = Path(directory, "store"), Path(directory, "restored")
        unpacked = Path(directory, "unpacked")
        unpacked.mkdir()
        root, into = shlex.quote(str(source)), shlex.quote(str(unpacked))
        run("init", "--store", store)
        for night in ("first", "second"):
            run("archive", source, "--name", "demo", "--comment", f"{night} night",
                "--store", store)  # fmt: skip
        pipe(f"tar -C {root} -c --format=posix . | ventifs archive - --name tarred --store {store}")
        run("versions", "--store", store)
        run("du", "demo@~1", "--store", store)
        run("restore", "demo", target, "--store", store)
        compare(source, target)
        pipe(f"ventifs export tarred --store {store} | tar -C {into} -x")
        compare(source, unpacked)
        address = f"unix://{directory}/9p.sock"
        with served(store, address):
            run("9p", "ls", address, "/")
            run("9p", "ls", address, "/demo")
            fetched = Path(directory, "fetched")
            run("9p", "get", address, "/demo/latest", fetched)
            compare(source, fetched)
        run("stats", "--store", store)
        run("check", "--read-data", "--store", store)
        print("\nthe index is lost, and made anew:")
        shutil.rmtree(store / "index")
        run("rebuild-index", "--store", store)
        run("versions", "--store", store)


if __name__ == "__main__":
    main()

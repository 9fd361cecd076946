"""The main job on real input: archive a directory twice, look into the versions, and restore them.

The demo archives a directory, archives it again as on the next night, and archives a tar stream of
it. It restores the directory, unpacks the tar version with tar, and copies the whole tree over 9P.
It compares each result with the original by `diff -r`. Then it checks every byte of the store,
removes the index and rebuilds it. A user who is not root cannot set owners; the demo then archives
a copy of the directory that belongs to the user. A failure is reported in one line.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VENTIFS = Path(sys.executable).with_name("ventifs")
ROOT = Path(__file__).parents[1]


def ventifs(*words: str | Path) -> None:
    """Print a `ventifs` command and run it."""
    print(f"\n$ ventifs {shlex.join(map(str, words))}", flush=True)
    run(VENTIFS, *words)


def pipe(line: str) -> None:
    """Print a pipeline and run it."""
    print(f"\n$ {line}", flush=True)
    directory = shlex.quote(str(VENTIFS.parent))
    run("bash", "-o", "pipefail", "-c", f"PATH={directory}:$PATH; {line}")


def run(*command: str | Path) -> None:
    """Run a command that must succeed."""
    code = subprocess.run(command, check=False).returncode
    if code:
        words = shlex.join(map(str, command))
        sys.exit(f"demo: this ended with {code}, for the reason above: {words}")


def compare(source: Path, target: Path) -> None:
    """Compare two trees by `diff`, which must find no difference."""
    run("diff", "-r", "--no-dereference", source, target)
    print(f"diff -r finds no difference between {source} and what came back")


@contextmanager
def served(store: Path, address: str) -> Iterator[None]:
    """Serve the store at an address; enters when the server accepts connections."""
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
        sys.exit(f"demo: ventifs serve ended with {server.returncode}, for the reason above")


def chosen() -> Path:
    """The directory to archive."""
    if len(sys.argv) > 1:
        source = Path(sys.argv[1])
        if not source.is_dir():
            sys.exit(f"demo: {source}: no such directory; tools/demo DIRECTORY archives that one")
        return source
    usual = Path("/usr/lib/python3.11")  # of Debian 12
    return usual if usual.is_dir() else Path(sysconfig.get_paths()["stdlib"])


def owned(source: Path, directory: Path) -> Path:
    """The source itself for root; for others, who cannot set its owners, a copy of it."""
    if os.geteuid() == 0:
        return source
    copy = directory / "copy"
    print(f"Only root can set owners, so this archives a copy of {source} that is your own.")
    run("cp", "-R", "--preserve=mode,timestamps,links", "--", source, copy)
    return copy


def archive_and_look(source: Path, store: Path) -> None:
    """Archive the source for two nights, and a tar stream of it, in a new store."""
    ventifs("init", "--store", store)
    for night in ("first", "second"):
        ventifs(
            "archive", source, "--name", "demo", "--comment", f"{night} night", "--store", store
        )
    root, place = shlex.quote(str(source)), shlex.quote(str(store))
    pipe(f"tar -C {root} -c --format=posix . | ventifs archive - --name tarred --store {place}")
    ventifs("versions", "--store", store)
    ventifs("du", "demo@~1", "--store", store)


def bring_back(source: Path, store: Path, directory: Path) -> None:
    """Bring everything back in three ways, and compare each result with the source."""
    restored, unpacked, fetched = (directory / name for name in ("restored", "unpacked", "fetched"))
    ventifs("restore", "demo", restored, "--store", store)
    compare(source, restored)
    unpacked.mkdir()
    place, into = shlex.quote(str(store)), shlex.quote(str(unpacked))
    pipe(f"ventifs export tarred --store {place} | tar -C {into} -x")
    compare(source, unpacked)
    address = f"unix://{directory}/9p.sock"
    with served(store, address):
        ventifs("9p", "ls", address, "/")
        ventifs("9p", "ls", address, "/demo")
        ventifs("9p", "get", address, "/demo/latest", fetched)
        compare(source, fetched)


def check(store: Path) -> None:
    """Check every byte of the store; remove its index and rebuild it."""
    ventifs("stats", "--store", store)
    ventifs("check", "--read-data", "--store", store)
    print("\nthe index is lost, and made anew:")
    shutil.rmtree(store / "index")
    ventifs("rebuild-index", "--store", store)
    ventifs("versions", "--store", store)


def conclude(source: Path) -> None:
    """Print what was shown, and what to do next."""
    print(f"""
Shown: {source} was archived, then again without storing anything twice, then as a tar
stream. It came back by restore, by export and over 9P, each time without a difference. Every byte
of the store was checked, and its index was made anew. All of it was temporary and is removed.

Next: {VENTIFS} archive DIRECTORY --name NAME
      archives into ~/.local/share/ventifs; {VENTIFS} --help lists the commands.
      {ROOT}/README.md says how to use them, and tools/test passes the tests.""")


def main() -> None:
    """Run the demo in a temporary directory."""
    source = chosen()
    with tempfile.TemporaryDirectory(prefix="ventifs-demo-") as temporary:
        directory = Path(temporary)
        archived, store = owned(source, directory), directory / "store"
        archive_and_look(archived, store)
        bring_back(archived, store, directory)
        check(store)
    conclude(source)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # such as a full /tmp, or standard output that is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing more goes there
        sys.exit(f"demo: {error}")

"""The main job, as far as it goes today: real files into a new store and back, twice.

Puts every file below a directory in 16 KiB blocks, again as on the next night (which must cost
nothing), shows statistics, checks every byte, throws the index away and makes it anew, and compares
every file with what comes back.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ventifs.store import Store

BLOCK = 16 << 10


def files(top: Path) -> Iterator[Path]:
    """Every regular file below a directory."""
    for directory, below, names in os.walk(top):
        below[:] = sorted(set(below) - {"site-packages", "dist-packages"})
        for name in sorted(names):
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                yield path


def blocks(path: Path) -> Iterator[bytes]:
    """A file's contents, cut every 16 KiB."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def archive(store: Store, top: Path, night: int) -> None:
    """Put all files, and commit one record for each that lists its blocks."""
    started, total, new_bytes = time.perf_counter(), 0, 0
    lists: list[tuple[bytes, bytes]] = []
    for path in files(top):
        scores = []
        for block in blocks(path):
            score, new = store.put(block)
            scores.append(score)
            total += len(block)
            new_bytes += len(block) if new else 0
        score, _ = store.put(b"".join(scores) + b"\n", node=True)
        lists.append((b"night%d/" % night + bytes(score), os.fsencode(path)))
    store.commit(puts=lists)
    seconds = time.perf_counter() - started
    print(f"night {night}: {len(lists)} files, {total / 1e6:.1f} MB, "
          f"{new_bytes / 1e6:.1f} MB new, in {seconds:.2f} s")  # fmt: skip


def compare(store: Store, night: int) -> int:
    """Read every file of a night back and compare it with the original; how many."""
    prefix = b"night%d/" % night
    records = store.records(prefix)
    for record in records:
        scores = bytes(store.get(record.key[len(prefix) :]))[:-1]  # type: ignore[arg-type]
        for at, block in enumerate(blocks(Path(os.fsdecode(record.value)))):
            stored = bytes(store.get(scores[32 * at : 32 * at + 32]))  # type: ignore[arg-type]
            if stored.ljust(len(block), b"\0") != block:
                sys.exit(f"{os.fsdecode(record.value)} came back different")
    return len(records)


def run(*command: str) -> None:
    """Run `ventifs` as a person would, showing the line."""
    print(f"\n$ ventifs {' '.join(command)}", flush=True)
    ventifs = Path(sys.executable).with_name("ventifs")
    subprocess.run([ventifs, *command], check=True)


def main() -> None:
    """Run the demo in a temporary directory."""
    top = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_paths()["stdlib"])
    with tempfile.TemporaryDirectory(prefix="ventifs-demo-") as directory:
        path = str(Path(directory, "store"))
        run("init", "--store", path)
        for night in (1, 2):
            with Store.open(path, "write") as store:
                archive(store, top, night)
        run("stats", "--store", path)
        run("check", "--read-data", "--store", path)
        print("\nthe index is lost, and made anew:")
        shutil.rmtree(Path(path, "index"))
        run("rebuild-index", "--store", path)
        with Store.open(path) as store:
            print(f"\n{compare(store, 2)} files came back as they were")


if __name__ == "__main__":
    main()

"""Random reads, writes, truncations, mappings and reopenings of one file: run in guests.

    python3 fsx.py FILE [--seed N] [--operations N] [--map] [--length BYTES]

Every read is compared with a copy in memory; in the end the whole file is, by a new descriptor. The
first difference ends it: it prints the seed, the operation, the offset and the last operations,
and the exit status is 1. With `--map` it also reads and writes through shared mappings, which a
mount with cache=none has not. Uses only the standard library.
"""

import argparse
import mmap
import os
import random
import sys

BLOCK = 4096


class Wrong(Exception):
    """The file is not what was written."""


class Run:
    """One file, and what should be in it."""

    def __init__(self, path: str, seed: int, length: int, *, mapped: bool) -> None:
        """Make the file, empty."""
        self.path = path
        self.random = random.Random(seed)
        self.length = length
        self.model = bytearray()
        self.done: list[str] = []
        self.fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
        self.calls = [
            self._write,
            self._write,
            self._read,
            self._read,
            self._truncate,
            self._append,
            self._reopen,
            self._stat,
            self._sync,
        ] + [self._map_read, self._map_write] * mapped

    def step(self) -> None:
        """Do one operation."""
        self.random.choice(self.calls)()
        del self.done[:-12]

    def _place(self) -> tuple[int, int]:
        """An offset and a length, often at a page's edge."""
        offset = self.random.randrange(self.length)
        length = self.random.choice([1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 1 << 16, self.length // 3])
        if self.random.random() < 0.3:
            offset -= offset % BLOCK
        return offset, max(min(length, self.length - offset), 1)

    def _compare(self, offset: int, seen: bytes) -> None:
        wanted = bytes(self.model[offset : offset + len(seen)])
        if seen == wanted:
            return
        at = next((i for i, (a, b) in enumerate(zip(seen, wanted, strict=False)) if a != b), -1)
        raise Wrong(
            f"at {offset + at}: {seen[at : at + 8].hex()}, not {wanted[at : at + 8].hex()}; "
            f"{len(seen)} bytes read from {offset}, {len(wanted)} expected"
        )

    def _put(self, offset: int, data: bytes) -> None:
        if offset > len(self.model):
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(data)] = data

    def _write(self) -> None:
        offset, length = self._place()
        data = self.random.randbytes(length)
        self.done.append(f"write {offset}+{length}")
        written = os.pwrite(self.fd, data, offset)
        self._put(offset, data[:written])

    def _append(self) -> None:
        data = self.random.randbytes(self.random.randrange(1, 3000))
        if len(self.model) + len(data) > self.length:
            return
        self.done.append(f"append {len(data)} to {len(self.model)}")
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)
        self.model.extend(data)

    def _read(self) -> None:
        offset, length = self._place()
        self.done.append(f"read {offset}+{length}")
        seen = os.pread(self.fd, length, offset)
        self._compare(offset, seen)
        if len(seen) < min(length, max(len(self.model) - offset, 0)):
            raise Wrong(f"{len(seen)} bytes read from {offset}; the file has {len(self.model)}")

    def _truncate(self) -> None:
        size = self.random.randrange(self.length)
        self.done.append(f"truncate {len(self.model)} to {size}")
        os.ftruncate(self.fd, size)
        if size < len(self.model):
            del self.model[size:]
        else:
            self.model.extend(bytes(size - len(self.model)))

    def _reopen(self) -> None:
        self.done.append("reopen")
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def _sync(self) -> None:
        self.done.append("sync")
        os.fsync(self.fd)

    def _stat(self) -> None:
        self.done.append("stat")
        for size in (os.fstat(self.fd).st_size, os.stat(self.path).st_size):
            if size != len(self.model):
                raise Wrong(f"the size is {size}, not {len(self.model)}")

    def _map_read(self) -> None:
        if not self.model:
            return
        self.done.append("map and read")
        with mmap.mmap(self.fd, len(self.model), mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            offset = self.random.randrange(len(self.model))
            self._compare(offset, mapped[offset : offset + 50_000])

    def _map_write(self) -> None:
        if not self.model:
            return
        offset = self.random.randrange(len(self.model))
        data = self.random.randbytes(min(len(self.model) - offset, 20_000))
        self.done.append(f"map and write {offset}+{len(data)}")
        with mmap.mmap(self.fd, len(self.model)) as mapped:
            mapped[offset : offset + len(data)] = data
            if self.random.random() < 0.5:
                mapped.flush()
        self.model[offset : offset + len(data)] = data

    def end(self) -> None:
        """Compare the whole file."""
        self.done.append("the end")
        os.close(self.fd)
        with open(self.path, "rb") as file:
            seen = file.read()
        if len(seen) != len(self.model):
            raise Wrong(f"the size is {len(seen)}, not {len(self.model)}")
        self._compare(0, seen)


def main(words: list[str]) -> int:
    """Run the operations; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--operations", type=int, default=2000)
    parser.add_argument("--length", type=int, default=300_000)
    parser.add_argument("--map", action="store_true")
    told = parser.parse_args(words)
    run = Run(told.file, told.seed, told.length, mapped=told.map)
    number = 0
    try:
        while number < told.operations:
            run.step()
            number += 1
        run.end()
    except (Wrong, OSError) as error:
        print(f"seed {told.seed}, operation {number}: {error}; after: {', '.join(run.done)}")
        return 1
    print(f"seed {told.seed}: {told.operations} operations")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

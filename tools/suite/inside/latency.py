"""How long small operations take: run in guests.

    python3 latency.py FILE TIMES

Stats and reads a file again and again; prints the 99th percentile of one operation in microseconds.
"""

import os
import sys
import time


def main(path: str, times: str) -> None:
    """Measure."""
    taken = []
    for _ in range(int(times)):
        begun = time.monotonic_ns()
        os.stat(path)
        fd = os.open(path, os.O_RDONLY)
        os.pread(fd, 100, 0)
        os.close(fd)
        taken.append(time.monotonic_ns() - begun)
    print(sorted(taken)[len(taken) * 99 // 100] // 1000)


if __name__ == "__main__":
    main(*sys.argv[1:])

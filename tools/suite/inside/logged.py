"""Operations whose completion is written to a log, until the file system fails: run in guests.

    python3 logged.py DIRECTORY LOG

Each line of the log is an operation that has returned. Ends at the first failure, which is what the
server's death is to a client.
"""

import itertools
import os
import sys


def main(directory: str, path: str) -> None:
    """Do operations until one fails."""
    log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    for number in itertools.count():
        name = f"{directory}/{number}"
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(log, f"create {number}\n".encode())
        os.write(fd, f"content of {number}".encode() * 100)
        os.write(log, f"write {number}\n".encode())
        os.fchmod(fd, 0o600)
        os.setxattr(fd, "user.n", b"%d" % number)
        os.write(log, f"attribute {number}\n".encode())
        if number % 8 == 0:
            os.fsync(fd)
        os.close(fd)
        if number % 2:
            os.rename(name, f"{name}.renamed")
            os.write(log, f"rename {number}\n".encode())
        if number % 5 == 4:
            os.unlink(f"{name}.renamed" if number % 2 else name)
            os.write(log, f"remove {number}\n".encode())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        print(error)

"""Attacks a directory that is served, as a process of the host: run as a script, until it is ended.

    python3 attacker.py KIND TOP

`TOP` is a directory of `laid_out`. `symlink` swaps the directory `d` of the export, and the file
`d/f`, with symbolic links that lead outside. `move` moves `d` out of the export and back. At
SIGTERM everything is put back, and the number of changes is printed.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

SECRET = b"canary"
_EXCHANGE = 2
_renameat2 = ctypes.CDLL(None, use_errno=True).renameat2


def laid_out(top: Path) -> tuple[Path, Path]:
    """Make an export and what lies outside of it, with the same names in both.

    Every content, link, attribute and name that is only outside contains `SECRET`.
    """
    export, outside = top / "export", top / "outside"
    for place, content in ((export / "d", b"within"), (outside, SECRET)):
        (place / "sub").mkdir(parents=True)
        for name in ("f", "sub/g"):
            (place / name).write_bytes(content)
            os.setxattr(place / name, "user.x", content)
            os.utime(place / name, (0, 1))  # so that reading would change the first
        os.symlink(content, place / "link")
        (place / "empty").mkdir()
    (outside / "canary-name").write_bytes(SECRET)
    os.utime(outside / "canary-name", (0, 1))
    (export / "to-outside").symlink_to(outside)
    (export / "d" / "to-file").symlink_to(outside / "f")
    return export, outside


def exchange(one: Path, other: Path) -> None:
    """Swap two names at once."""
    if _renameat2(-100, os.fsencode(one), -100, os.fsencode(other), _EXCHANGE) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one)


def main(kind: str, top: str) -> None:
    """Attack until SIGTERM."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    export, outside = Path(top, "export"), Path(top, "outside")
    print("attacks", flush=True)
    changes = 0
    while not ended:
        for change in _MOVES if kind == "move" else _SWAPS:
            with suppress(OSError):  # the client has removed something, or put it elsewhere
                change(export, outside)
                changes += 1
    with suppress(OSError):
        os.rename(outside / "d", export / "d")
    if (export / "d").is_symlink():
        exchange(export / "d", export / "to-outside")
    print(changes, flush=True)


def _swap_directory(export: Path, outside: Path) -> None:
    exchange(export / "d", export / "to-outside")


def _swap_file(export: Path, outside: Path) -> None:
    exchange(export / "d" / "f", export / "d" / "to-file")


def _move_out(export: Path, outside: Path) -> None:
    os.rename(export / "d", outside / "d")


def _move_back(export: Path, outside: Path) -> None:
    os.rename(outside / "d", export / "d")


_SWAPS = (_swap_directory, _swap_directory, _swap_file, _swap_file)
_MOVES = (_move_out, _move_back)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Disks that freeze, and servers that are killed."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.segment import HOST
from tests.support.serving import archive, command
from tools.suite.setting import Setting, check, host

_FREEZE, _THAW = 0xC0045877, 0xC0045878  # FIFREEZE and FITHAW of linux/fs.h
_IMAGE_BYTES = 64 << 20
_FROZEN_S = 10
_OPERATIONS = 400  # per measurement
_WORSE, _WORSE_US = 10, 1_000_000  # how much worse a 99th percentile may be: a factor, and on top
_CONTENT = "content of {}"


@contextmanager
def _disk(image: Path, place: Path) -> Iterator[int]:
    """A file system of its own, mounted on a directory; yields a descriptor of its root."""
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    host("mkfs.ext4", "-q", image)
    host("mount", "-o", "loop,nosuid,nodev", image, place)
    try:
        fd = os.open(place, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        host("umount", "-l", place)


def frozen(setting: Setting) -> str:
    """A file system that is frozen for 10 s stops its own users alone."""
    other, store = setting.directory / "other", setting.directory / "store"
    other.mkdir()
    (other / "file").write_text("other")
    more: list[str] = []
    if setting.server == "ventifs":
        subprocess.run(command("init", "--store", store), check=True, stdout=subprocess.DEVNULL)
        aname = archive(store, other, "kept")
        more = ["--store", str(store)]
    with (
        _disk(setting.directory / "image", setting.export) as fd,
        setting.serving(None, *more, beside={"other": other}),
        setting.mounted() as path,
        setting.guest.mounted("other", HOST, setting.words("other")) as beside,
    ):
        measured = {"another export": str(beside / "file")}
        if more:
            measured["an archived version"] = f"{setting.guest.directory}/mnt/kept/file"
            words = setting.words().replace("aname=data", f"aname={aname}") + ",ro"
            with setting.guest.mounted("kept", HOST, words):
                return _freeze(setting, fd, str(path), measured)
        return _freeze(setting, fd, str(path), measured)


def _freeze(setting: Setting, fd: int, path: str, measured: dict[str, str]) -> str:
    """Freeze, measure, thaw."""
    measure = {
        name: setting.inside("latency.py", file, _OPERATIONS) for name, file in measured.items()
    }
    before = {name: int(setting.run(script)) for name, script in measure.items()}
    fcntl.ioctl(fd, _FREEZE, 0)
    begun = time.monotonic()
    try:
        setting.run(
            f"for n in 1 2 3 4 5 6 7 8; do (echo $n >{path}/written-$n; touch done-$n) & done\n"
            "sleep 1; [ ! -e done-1 ]"
        )
        during = {name: int(setting.run(script)) for name, script in measure.items()}
        time.sleep(max(begun + _FROZEN_S - time.monotonic(), 0))
    finally:
        fcntl.ioctl(fd, _THAW, 0)
    setting.run(
        "until [ $(ls | grep -c done-) = 8 ]; do sleep 0.1; done; rm done-*\n"
        f"cat {path}/written-* | sort | tr -d '\\n' | grep -x 12345678",
        patience_s=300,
    )
    told = [f"{name}: {before[name]} us before, {during[name]} us during" for name in measure]
    for name in measure:
        check(during[name] < _WORSE * before[name] + _WORSE_US, "; ".join(told))
    return "; ".join(told)


def killed(setting: Setting) -> str:
    """What was answered before the server was killed is there: at 200 random moments."""
    chance = random.Random(7)
    log = setting.guest.directory / "log"
    operations = 0
    rounds = setting.many(200, 3)
    for number in range(rounds):
        directory = setting.export / f"{number}"
        directory.mkdir()
        with setting.serving() as server, setting.mounted() as path:
            script = setting.inside("logged.py", f"{path}/{number}", log)
            setting.run(f"{script} >told 2>&1 & until [ -s {log} ]; do sleep 0.1; done")
            time.sleep(chance.uniform(0, 1))
            victims = [server.process.pid, *_children(server.process.pid)]
            os.kill(chance.choice(victims), signal.SIGKILL)
            if server.process.poll() is None:
                time.sleep(0.2)
                server.process.kill()
            setting.run(f"wait; until ! pgrep -f logged.py; do sleep 0.1; done; sync {log}")
        operations += _verify(directory, log.read_text().splitlines())
        log.unlink()
    return f"{rounds} kills, {operations:,} operations"


def _children(pid: int) -> list[int]:
    """The processes that a process has started."""
    told = subprocess.run(["pgrep", "-P", str(pid)], check=False, stdout=subprocess.PIPE, text=True)
    return [int(word) for word in told.stdout.split()]


def _verify(directory: Path, lines: list[str]) -> int:
    """Compare a directory with the log of what was done in it; the last file is in doubt."""
    done: dict[int, list[str]] = {}
    for line in lines:
        what, _, which = line.partition(" ")
        done.setdefault(int(which), []).append(what)
    for number, steps in done.items():
        plain, renamed = directory / str(number), directory / f"{number}.renamed"
        found = [path for path in (plain, renamed) if path.exists()]
        if "remove" in steps:
            check(not found, f"{number} is back after its removal")
            continue
        last = number == max(done)
        if not found:
            check(last and number % 5 == 4, f"{number} is lost after {steps}")
            continue
        check(found == [renamed] or "rename" not in steps, f"{number} has its old name")
        if "write" in steps:
            wanted = _CONTENT.format(number) * 100
            check(found[0].read_text() == wanted, f"{number} has not what was written")
        if "attribute" in steps:
            check(os.getxattr(found[0], "user.n") == b"%d" % number, f"{number}: its attribute")
    return len(lines)


def long_tests(setting: Setting) -> str:
    """The tests of live trees, with everything that they leave out by default."""
    root = Path(__file__).resolve().parents[2]
    chosen = [path for path in ("tests/vfs/live", "tests/serving", "tests/ninep") if root / path]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", *chosen, "-k", "live"],
        cwd=root,
        env={**os.environ, "VENTIFS_LONG": "1"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    check(done.returncode == 0, done.stdout[-6000:])
    return done.stdout.splitlines()[-1]

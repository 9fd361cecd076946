"""Two guests on one shared export at once."""

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tools.suite.setting import Setting, check


def two_guests(setting: Setting) -> None:
    """Each sees the other's files; appends stay whole; locks and databases hold across both."""
    with (
        setting.serving(),
        setting.mounted(guest=setting.guest) as one,
        setting.mounted(guest=setting.second) as two,
    ):
        _seen(setting, str(one), str(two))
        _locks(setting, str(one), str(two))
        _beside(setting, str(one), str(two))


def _both(setting: Setting, one: str, two: str) -> None:
    """Run a script in each guest at the same time."""
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(setting.run, one, guest=setting.guest)
        second = pool.submit(setting.run, two, guest=setting.second)
        first.result()
        second.result()


def _seen(setting: Setting, one: str, two: str) -> None:
    """What one guest does, the other sees at once."""
    for here, there, guest, other in (
        (one, two, setting.guest, setting.second),
        (two, one, setting.second, setting.guest),
    ):
        setting.run(f"mkdir {here}/d; echo 1 >{here}/d/f; chmod 640 {here}/d/f", guest=guest)
        said = setting.run(f"ls {there}/d; cat {there}/d/f; stat -c %a {there}/d/f", guest=other)
        check(said.split() == ["f", "1", "640"], f"a new file: {said}")
        setting.run(f"echo second >>{here}/d/f; mv {here}/d/f {here}/d/g", guest=guest)
        said = setting.run(f"ls {there}/d; stat -c %s {there}/d/g; cat {there}/d/g", guest=other)
        check(said.split() == ["g", "9", "1", "second"], f"appended and renamed: {said}")
        setting.run(f": >{here}/d/g", guest=guest)
        said = setting.run(f"stat -c %s {there}/d/g; cat {there}/d/g", guest=other)
        check(said.split() == ["0"], f"truncated: {said}")
        setting.run(f"rm -r {here}/d", guest=guest)
        check(setting.guest.run(f"ls {there}/d").status, "it is still seen after its removal")
        check(setting.run(f"ls -A {there}", guest=other) == "", "something is left")


def _locks(setting: Setting, one: str, two: str) -> None:
    """A lock that one guest holds conflicts in the other, and is free after it."""
    for kind in ("record", "flock"):
        tell = setting.inside("together.py", "try", f"{two}/lock", kind)
        hold = setting.inside("together.py", "hold", f"{one}/lock", kind, "ready", "release")
        setting.run(f"{hold} & until [ -e ready ]; do sleep 0.1; done", guest=setting.guest)
        said = setting.run(tell, guest=setting.second).strip()
        check(said == "held", f"{kind}: {said} in one guest while another has it")
        setting.run("touch release; wait; while pgrep -f together.py; do sleep 0.1; done")
        said = setting.run(tell, guest=setting.second).strip()
        check(said == "free", f"{kind}: {said} after the other guest has released it")
        setting.run("rm ready release")


def _beside(setting: Setting, one: str, two: str) -> None:
    """Both work on the same files at the same time."""
    count = setting.many(2000, 100)
    _both(
        setting,
        setting.inside("together.py", "append", f"{one}/lines", "a", count),
        setting.inside("together.py", "append", f"{two}/lines", "b", count),
    )
    lines = (setting.export / "lines").read_text().splitlines()
    wanted = Counter(f"{name} {number:06} {'.' * 60}" for name in "ab" for number in range(count))
    missing, foreign = wanted - Counter(lines), Counter(lines) - wanted
    check(not missing and not foreign, f"lost {len(missing)}, torn {list(foreign)[:5]}")
    times = setting.many(200, 20)
    for kind in ("record", "flock"):
        _both(
            setting,
            setting.inside("together.py", "count", f"{one}/{kind}", kind, times),
            setting.inside("together.py", "count", f"{two}/{kind}", kind, times),
        )
        counted = int((setting.export / kind).read_bytes())
        check(counted == 2 * times, f"{kind}: counted to {counted}, not {2 * times}")
    _both(
        setting,
        setting.inside("together.py", "database", f"{one}/rows.db", "a", times),
        setting.inside("together.py", "database", f"{two}/rows.db", "b", times),
    )
    with sqlite3.connect(setting.export / "rows.db") as opened:
        rows = opened.execute("select count(*) from rows").fetchone()[0]
        whole = opened.execute("pragma integrity_check").fetchone()[0]
    check((rows, whole) == (2 * times, "ok"), f"a database of both: {rows} rows, {whole}")
    (setting.export / "names").mkdir()
    _both(
        setting,
        setting.inside("together.py", "create", f"{one}/names", "a", times),
        setting.inside("together.py", "create", f"{two}/names", "b", times),
    )
    found = {path.name: path.read_text() for path in (setting.export / "names").iterdir()}
    left = {f"{n}-{i:05}": f"{n} {i}" for n in "ab" for i in range(times) if i % 3}
    check(found == left, f"files of both: {found.keys() ^ left.keys()}")

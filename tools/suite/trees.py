"""Whole trees: copied there and back, removed, and listed."""

import os
import stat
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from tests.support.looking import Look, looks
from tests.support.roots import guest_roots
from tests.support.segment import HOST
from tests.support.serving import differences
from tools.suite.setting import Setting, check, host

_SMALL = ("etc", "var/odd", "var/log")  # at a scale below 1
_SLACK_BLOCKS = 64  # of 512 bytes, by which a copy may be larger: extents differ


def copies(setting: Setting) -> str:
    """A Debian root by cp -a, rsync and tar, there and back; compared entry by entry."""
    source = setting.directory / "source"
    count = _source(source, whole=setting.scale >= 1)
    wanted = dict(_facts(source))
    more = "access=client,posixacl"
    with (
        setting.serving({"source": source}),
        setting.mounted(more=more) as path,
        setting.guest.mounted("source", HOST, setting.words("source", f"ro,{more}")),
    ):
        setting.run(f"cp -a source {path}/cp")
        setting.run(f"rsync -aHAXS --numeric-ids {path}/cp/ {path}/rsync")
        setting.run(
            f"mkdir {path}/tar; cd {path}/rsync\n"
            "tar -cS --xattrs --xattrs-include='*' --acls --numeric-owner . 2>../tar.err |\n"
            f"tar -xpS --xattrs --xattrs-include='*' --acls --numeric-owner -C {path}/tar\n"
            "grep -v 'socket ignored' ../tar.err >&2 || rm ../tar.err"
        )
        setting.run(
            f"rsync -aH --numeric-ids {path}/tar/ back\n"
            # diff takes no two special files for equal.
            f"diff -r --no-dereference back {path}/tar | grep -v '^File .* is a ' && exit 1\n"
            "rm -r back"
        )
    found = []
    for copier in ("cp", "rsync", "tar"):
        seen = dict(_facts(setting.export / copier))
        told = {path: _carried(look, copier) for path, look in wanted.items()}
        if copier == "tar":
            told = {path: look for path, look in told.items() if not stat.S_ISSOCK(look["mode"])}
        copied = {path: _carried(look, copier) for path, look in seen.items()}
        found += [f"{copier}: {line}" for line in differences(told, copied)]
        found += [f"{copier}: {line}" for line in _larger(_blocks(wanted), _blocks(seen))]
    check(not found, "\n".join(found[:60]))
    return f"{count:,} paths"


def _source(source: Path, *, whole: bool) -> int:
    """Make a copy of a root by the host's own cp; return how many paths it has."""
    root = guest_roots()[0]
    source.mkdir()
    if whole:
        host("cp", "-a", "--reflink=auto", f"{root}/.", source)
    else:
        for name in _SMALL:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            host("cp", "-a", root / name, source / name)
        host("ln", "-f", source / "var/odd/git", source / "etc/linked")
    return sum(1 for _ in source.rglob("*"))


def _facts(top: Path) -> Iterator[tuple[bytes, Look]]:
    """The facts of every path as the host sees them, with links by their first names."""
    names: dict[tuple[int, int], list[bytes]] = {}
    found = dict(looks(bytes(top)))
    for path, seen in found.items():
        status = os.lstat(os.path.join(bytes(top), path) if path else bytes(top))
        # Linux's 9P client cuts off fractions of seconds, and what is before 1970, of times to set.
        seen["mtime_ns"] = max(status.st_mtime_ns // 10**9, 0)
        seen["blocks"] = status.st_blocks
        if not stat.S_ISDIR(status.st_mode):
            names.setdefault((status.st_dev, status.st_ino), []).append(path)
    for paths in names.values():
        for path in paths:
            found[path]["links"] = sorted(paths)
    yield from found.items()


def _blocks(facts: dict[bytes, Look]) -> dict[bytes, int]:
    """The space that each regular file takes."""
    return {path: seen["blocks"] for path, seen in facts.items() if stat.S_ISREG(seen["mode"])}


def _carried(seen: Look, copier: str) -> Look:
    """The facts that a copier carries over."""
    left = {"nlink", "blocks"} | ({"size"} if stat.S_ISDIR(seen["mode"]) else set())
    told = {name: value for name, value in seen.items() if name not in left}
    told["xattrs"] = {
        name: value
        for name, value in seen["xattrs"].items()
        if name != "security.selinux" and not (copier != "cp" and name.startswith("trusted."))
    }
    return told


def _larger(wanted: dict[bytes, int], seen: dict[bytes, int]) -> list[str]:
    """Copies that take much more space than their originals: sparse files that were filled."""
    return [
        f"{os.fsdecode(path)!r}: {seen[path]} blocks, not {blocks}"
        for path, blocks in wanted.items()
        if seen.get(path, 0) > blocks + _SLACK_BLOCKS
    ]


def removal(setting: Setting) -> None:
    """`rm -rf` of 100,000 files in one directory leaves nothing."""
    count = setting.many(100_000, 3000)
    for name in ("flat", "deep/a/b"):
        directory = setting.export / name
        directory.mkdir(parents=True)
        fd = os.open(directory, os.O_RDONLY)
        for number in range(count if name == "flat" else count // 10):
            os.close(os.open(f"name-{number:06}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
        os.close(fd)
    with setting.ready() as path:
        setting.run(f'rm -rf {path}/flat {path}/deep\n[ -z "$(ls -A {path})" ]')
    left = list(setting.export.iterdir())
    check(not left, f"left: {left[:10]}")


def find(setting: Setting) -> str:
    """`find` over 1,000,000 files, by a server that may open 1,024, sees every name."""
    directories, files = setting.many(100, 4), setting.many(10_000, 500)
    top = setting.work / f"names-{directories}-{files}"
    made = top / "made"
    if not made.exists():
        for number in range(directories):
            directory = top / f"{number:04}"
            directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(directory, os.O_RDONLY)
            for each in range(files):
                os.close(os.open(f"file-{each:06}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
            os.close(fd)
        made.touch()
    names = [f"{n:04}/file-{each:06}" for n in range(directories) for each in range(files)]
    wanted = sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    with (
        setting.serving({"names": top}, few_files=True),
        setting.guest.mounted("names", HOST, setting.words("names", "ro")),
    ):
        said = setting.run(
            "cd names; find . -name 'file-*' -printf '%P\\n' | LC_ALL=C sort | sha256sum"
        )
        check(said.split()[0] == wanted, "find has not seen every name")
        part = setting.run(
            "cd names; find . -size -1 -type f -printf '%s%m\\n' | sort | uniq -c", patience_s=7200
        )
        check(part.split() == [str(len(names)), "0644"], f"with attributes: {part}")
    return f"{len(names):,} names"

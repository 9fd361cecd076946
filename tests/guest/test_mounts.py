"""What people do with versions mounted in a guest: compare, copy, read anywhere, try to write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import looking, reading_anywhere, writing_anything
from tests.support.looking import looks, parse
from tests.support.segment import HOST
from tests.support.serving import DIALECTS, Exported, archive, differences, expected
from tests.support.uml import Uml

pytestmark = pytest.mark.slow
_PYTHON = f"{sys.executable} -I -S"
_LARGE = "usr/bin/git"


def _root(exported: Exported, which: int, path: str) -> Path:
    return exported.roots[which] / path.lstrip("/")


def test_two_versions_beside_each_other_are_two_trees(guest: Uml, exported: Exported) -> None:
    ours = [_root(exported, which, "/etc") for which in (0, 1)]
    on_host = subprocess.run(
        ["diff", "-r", "--no-dereference", *ours],
        check=False,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert on_host.returncode == 1
    with (
        guest.mounted("old", HOST, exported.options(0, "/etc")),
        guest.mounted("new", HOST, exported.options(1, "/etc")),
    ):
        in_guest = guest.run("diff -r --no-dereference old new")
        copied = guest.succeed(
            "cp -a old copy; cp -a --remove-destination new/. copy\n"
            "diff -r --no-dereference new copy | sort; rm -r copy"
        )
    assert in_guest.status == 1
    told = on_host.stdout
    for root, name in zip(ours, (b"old", b"new"), strict=True):
        told = told.replace(os.fsencode(root), name)
    assert in_guest.output == told
    only_old = [line for line in told.splitlines() if line.startswith(b"Only in old")]
    assert copied.encode().splitlines() == sorted(
        line.replace(b"Only in old", b"Only in copy") for line in only_old
    )


def _soon(condition: str) -> str:
    """Shell that waits for what is true within a second: the server looks no more often.

    What never is, the guest's patience ends.
    """
    return f"until {condition}; do sleep 0.2; done"


def test_a_version_archived_while_mounted_appears(
    guest: Uml, exported: Exported, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("first")
    with guest.mounted("all", HOST, exported.options("", cache="none")):
        before = guest.succeed("ls all").split()
        assert "web01" in before
        assert "later" not in before
        first = archive(exported.store, source, "later")
        assert guest.succeed(f"{_soon('ls all | grep -q later')}; ls all").split() == sorted(
            [*before, "later"]
        )
        assert guest.succeed("ls all/later; cat all/later/latest/file").split() == [
            first.partition("@")[2],
            "latest",
            "first",
        ]
        with guest.mounted("one", HOST, exported.options("later@latest")):
            (source / "file").write_text("second")
            second = archive(exported.store, source, "later")
            assert guest.succeed(_soon("grep -q second all/later/latest/file")) == ""
            assert guest.succeed("cat all/later/latest/file") == "second"
            assert guest.succeed("cat one/file") == "first", "a mounted version has changed"
            assert guest.succeed(f"cat all/later/{first.partition('@')[2]}/file") == "first"
            assert second.partition("@")[2] in guest.succeed("ls all/later").split()


@pytest.mark.parametrize("mode", ["ro", "rw"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_can_be_written(guest: Uml, exported: Exported, dialect: str, mode: str) -> None:
    """Mounted `ro` the guest's kernel says so; mounted `rw` the server must.

    What Linux's client does not even ask in a dialect (links and nodes in 9P2000, attributes
    outside 9P2000.L) it refuses in its own words. In 9P2000 it leaves the owner out of what it
    asks, and to be asked for no change at all is no failure.
    """
    own_words = {"EROFS"} if dialect == "9p2000.L" else {"EROFS", "EPERM", "ENOTSUP"}
    allowed = {"EROFS"} if mode == "ro" else own_words
    options = exported.options(0, "/var/odd", dialect=dialect, cache="none", more=mode)
    look = f"{_PYTHON} {looking.__file__} odd"
    with guest.mounted("odd", HOST, options):
        before = parse(guest.succeed(look).encode())
        said = guest.succeed(f"{_PYTHON} {writing_anything.__file__} odd git")
        after = parse(guest.succeed(look).encode())
    told = dict(line.split(": ") for line in said.splitlines())
    if (dialect, mode) == ("9p2000", "rw"):
        assert told["chown"] == "done"
        told["chown"] = "EROFS"
    assert set(told) == {name for name, _ in writing_anything.attempts(b"", b"")}
    assert {name: why for name, why in told.items() if why not in allowed} == {}
    assert before == after


@pytest.mark.parametrize("cache", ["none", "loose", "mmap"])
def test_every_cache_reads_the_same(guest: Uml, exported: Exported, cache: str) -> None:
    told = {
        path: expected(seen, "9p2000.L") for path, seen in looks(bytes(_root(exported, 0, "/etc")))
    }
    with guest.mounted("web", HOST, exported.options(0, cache=cache)):
        for _ in range(2):  # the second time from the cache
            lines = guest.succeed(f"{_PYTHON} {looking.__file__} web/etc")
            found = differences(told, parse(lines.encode()))
            assert not found, "\n".join(found)
        # Running a program maps it.
        assert guest.succeed("chroot web /usr/bin/git --version").startswith("git version")


@pytest.mark.parametrize("cache", ["none", "loose", "mmap"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_reads_anywhere(guest: Uml, exported: Exported, dialect: str, cache: str) -> None:
    beside = _root(exported, 0, _LARGE)
    with guest.mounted("web", HOST, exported.options(0, dialect=dialect, cache=cache)):
        guest.succeed(f"{_PYTHON} {reading_anywhere.__file__} web/{_LARGE} {beside}")
        guest.succeed(
            f"{_PYTHON} {reading_anywhere.__file__} web/var/log/lastlog "
            f"{_root(exported, 0, 'var/log/lastlog')}"
        )


def test_many_read_at_once(guest: Uml, exported: Exported) -> None:
    names = subprocess.run(
        ["find", "usr/bin", "-type", "f", "-size", "+100k", "-size", "-4000k"],
        check=True,
        cwd=exported.roots[0],
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.split()[:40]
    assert len(names) == 40
    told = subprocess.run(
        ["md5sum", *sorted(names)], cwd=exported.roots[0], check=True, stdout=subprocess.PIPE
    ).stdout.decode()
    with guest.mounted("web", HOST, exported.options(0, cache="none")):
        said = guest.succeed(
            "cd web\nfor name in " + " ".join(names) + "; do\n"
            '(sum=$(cat "$name" | md5sum); echo "${sum%-}$name") &\ndone\nwait'
        )
    assert sorted(said.splitlines()) == sorted(told.splitlines())


def test_a_copy_of_a_subtree_is_the_subtree(guest: Uml, exported: Exported) -> None:
    """But for user attributes, which a tmpfs has not, and sizes and links of its directories."""
    with guest.mounted("web", HOST, exported.options(0)):
        guest.succeed("cp -a web/var/odd copy")
        copy = parse(guest.succeed(f"{_PYTHON} {looking.__file__} copy; rm -r copy").encode())
        xattrs = guest.succeed("getfattr -h -d -m - --absolute-names web/etc/mtab web/usr/bin/perl")
    source = dict(looks(bytes(_root(exported, 0, "/var/odd"))))
    for seen in (copy[b""], source[b""]):
        del seen["size"], seen["nlink"]
    source_git = source[b"git"]
    assert (copy[b"git"]["nlink"], source_git["nlink"]) == (2, 3)  # the third is outside
    for name in (b"git", b"another git"):
        copy[name]["nlink"] = 3
    found = differences(source, copy)
    assert not found, "\n".join(found)
    assert 'trusted.of-a-link="1"' in xattrs
    assert "security.capability=0s" in xattrs


def test_each_user_is_a_user_of_its_own(guest: Uml, exported: Exported) -> None:
    """With access=user the client attaches for each; its kernel checks the modes."""
    as_user = "setpriv --reuid {0} --regid {1} --clear-groups --"
    first, second = as_user.format(1000, 1000), as_user.format(1001, 42)  # 42 is Debian's shadow
    with guest.mounted("web", HOST, exported.options(0, more="ro,access=user")):
        for user in (first, second):
            assert guest.succeed(f"{user} cat web/etc/debian_version") == (
                _root(exported, 0, "etc/debian_version").read_text()
            )
            for words in ("ls web/root", "cat web/var/log/btmp"):
                denied = guest.run(f"{user} {words}")
                assert "Permission denied" in denied.text, denied.text
        assert "Permission denied" in guest.run(f"{first} cat web/etc/shadow").text
        assert guest.succeed(f"{second} cat web/etc/shadow") == (
            _root(exported, 0, "etc/shadow").read_text()
        )

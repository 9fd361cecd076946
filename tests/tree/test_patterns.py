"""Patterns mean what git means by them; the cases are gitignore(5)'s."""

import pytest

from ventifs.errors import VentifsError
from ventifs.tree.patterns import Patterns


@pytest.mark.parametrize(
    ("lines", "path", "directory", "expected"),
    [
        ([b"*.o"], b"a/b.o", False, True),
        ([b"*.o"], b"a/b.oo", False, False),
        ([b"*.o", b"!keep.o"], b"a/keep.o", False, False),
        ([b"!keep.o", b"*.o"], b"a/keep.o", False, True),
        ([b"cache/"], b"var/cache", True, True),
        ([b"cache/"], b"var/cache", False, False),
        ([b"/tmp"], b"tmp", True, True),
        ([b"/tmp"], b"var/tmp", True, False),
        ([b"var/tmp"], b"var/tmp", True, True),
        ([b"var/tmp"], b"srv/var/tmp", True, False),
        ([b"var/*"], b"var/log", True, True),
        ([b"var/*"], b"var/log/syslog", False, False),
        ([b"a/**/b"], b"a/x/y/b", False, True),
        ([b"# no", b"", b"  "], b"# no", False, False),
        ([b"\\#yes"], b"#yes", False, True),
        ([b"end\\ "], b"end ", False, True),
        ([b"end  \n"], b"end", False, True),
        ([b"\xff*"], b"x/\xff\xfe", False, True),
        ([b"*"], b"new\nline", False, True),
        ([b"[ab]?"], b"b\xff", False, True),
    ],
)
def test_patterns(lines: list[bytes], path: bytes, directory: bool, expected: bool) -> None:
    assert Patterns(lines).match(path, directory=directory) is expected


def test_a_pattern_that_cannot_be_is_named() -> None:
    with pytest.raises(VentifsError, match=r"'\[a' is not a gitignore pattern"):
        Patterns([b"[a"])


def test_no_patterns_are_false() -> None:
    assert not Patterns([b"# only a comment"])
    assert Patterns([b"x"])

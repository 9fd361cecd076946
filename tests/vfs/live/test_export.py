"""`--live`: its grammar, and names that are taken."""

import os

import pytest

from ventifs.vfs.live.export import ExportError, LiveExport, check_names, parse_export

GOOD = [
    ("web=/srv/web", LiveExport("web", "/srv/web")),
    ("web=/srv/web,rw", LiveExport("web", "/srv/web", writable=True)),
    ("web=/srv/web,ro,shared", LiveExport("web", "/srv/web")),
    ("w.e-b_1=/srv/web,exclusive", LiveExport("w.e-b_1", "/srv/web", sharing="exclusive")),
    ("a=/b,exclusive,rw", LiveExport("a", "/b", writable=True, sharing="exclusive")),
    ("a=/b=c", LiveExport("a", "/b=c")),
    ("a=/b,,rw", LiveExport("a", "/b,rw")),
    ("a=/b,,,rw", LiveExport("a", "/b,", writable=True)),
    ("a=/b,,,,c,rw", LiveExport("a", "/b,,c", writable=True)),
    ("a=/b/../c/", LiveExport("a", "/b/../c/")),
    ("a=b", LiveExport("a", os.path.abspath("b"))),
    ("a=/link/..", LiveExport("a", "/link/..")),
    ("a=/\udcff", LiveExport("a", "/\udcff")),
]
BAD = [
    ("web", "has no '='; write NAME=DIR"),
    ("=/srv", "cannot name versions"),
    ("-a=/srv", "cannot name versions"),
    ("a/b=/srv", "cannot name versions"),
    ("a@b=/srv", "cannot name versions"),
    (f"{'a' * 201}=/srv", "cannot name versions"),
    ("score=/srv", "lists trees by score; choose another name"),
    ("a=", "a directory or option is empty"),
    ("a=,rw", "a directory or option is empty"),
    ("a=/b,", "a directory or option is empty"),
    ("a=/b,rw,", "a directory or option is empty"),
    ("a=/b,rx", "'rx' is no option; write rw, shared or exclusive, and a comma"),
    ("a=/b,RW", "'RW' is no option"),
    ("a=/b,c,rw", "'c' is no option"),
    ("a=/b,rw,ro", "ro and rw contradict each other"),
    ("a=/b,shared,exclusive", "exclusive and shared contradict each other"),
]


@pytest.mark.parametrize(("text", "meant"), GOOD)
def test_what_is_meant(text: str, meant: LiveExport) -> None:
    assert parse_export(text) == meant


def test_squashing_is_the_servers() -> None:
    assert parse_export("a=/b", "root").squash == "root"


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_what_is_written_wrongly_is_named(text: str, reason: str) -> None:
    with pytest.raises(ExportError) as caught:
        parse_export(text)
    assert str(caught.value).startswith(f"{text}: ")
    assert reason in str(caught.value)


def test_a_line_stays_a_line() -> None:
    with pytest.raises(ExportError) as caught:
        parse_export("a=/b,\x1b[31m\n")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_names_are_taken_once() -> None:
    one, other = parse_export("a=/b"), parse_export("c=/d")
    check_names([one, other], ["b"])
    with pytest.raises(ExportError, match="two live exports have the name 'a'; rename one"):
        check_names([one, other, parse_export("a=/e")])
    with pytest.raises(ExportError, match="live export 'c': versions have this name; choose"):
        check_names([one, other], ["b", "c"])

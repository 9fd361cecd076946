"""Foreign bytes: nothing that drives a terminal passes, and no two names look alike."""

import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventifs.errors import Corrupt, VentifsError
from ventifs.text import UNENCODABLE, PrintableStream, one_line, printable, shell_word

EVIL = (
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b[31m",
    "\x9b31m",
    "\r",
    "\n",
    "\t",
    "\x00",
    "\x7f",
    "\x85",
    "\u200e",
    "\u200f",
    "\u202a",
    "\u202e",
    "\u2066",
    "\u2069",
    "\u061c",
    "\u200b",
    "\u200d",
    "\ufeff",
    "\u00ad",
    "\u2028",
    "\u2029",
    "\u00a0",
    "\u3000",
    "\U000e0041",
    "\U0010ffff",
    "\ue000",
    "\ud800",
    "\udcff",
    "\u0378",
    "\ufe0f",
    "\u3164",
    "\u115f",
    "\u2800",
    "\u034f",
    "\U000e0100",
)
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.mark.parametrize("text", EVIL)
def test_nothing_evil_passes(text: str) -> None:
    for shown in printable(f"a{text}b"), one_line(f"a{text}b"):
        assert shown.isascii()
        assert shown.isprintable()
        assert shown.startswith("a\\")


def test_every_character_is_shown_or_escaped() -> None:
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        shown = one_line(character)
        if unicodedata.category(character) in UNSEEN or (character.isspace() and character != " "):
            assert shown != character
        assert shown == character or (shown.startswith("\\") and shown.isascii())


def test_paths_are_printed_on_one_line() -> None:
    assert printable(b"plain/\xc3\xa9") == "plain/\N{LATIN SMALL LETTER E WITH ACUTE}"
    assert printable(b"a\nb\x1b[0m\xff\t\r\x00") == r"a\nb\x1b[0m\xff\t\r\x00"
    assert printable(os.fsencode("\N{LINE SEPARATOR}")) == r"\u2028"
    assert printable("\U000e0001\x9b") == r"\U000e0001\u009b"
    assert printable(Path("a\\b\r")) == r"a\\b\r"


def test_no_two_paths_are_printed_alike() -> None:
    odd = [
        b"a\nb",
        rb"a\nb",
        rb"a\\nb",
        b"\xff",
        rb"\xff",
        b"\x85",
        "\x85".encode(),
        rb"\u0085",
        "\u2028".encode(),
        rb"\u2028",
        b"\xed\xa0\x80",
        rb"\ud800",
    ]
    assert len({printable(path) for path in odd}) == len(odd)
    assert printable(rb"a\nb") == r"a\\nb"


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_printed_path_is_one_line_that_can_be_read_back(one: bytes, other: bytes) -> None:
    assert printable(one).isprintable()
    assert (printable(one) == printable(other)) == (one == other)


_TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("\\xu08a\n\udcff\ud800")), max_size=12)


@given(_TEXTS, _TEXTS)
def test_so_is_a_text(one: str, other: str) -> None:
    assert (printable(one) == printable(other)) == (one == other)
    assert one_line(printable(one)) == printable(one)
    assert one_line(one_line(one)) == one_line(one)


@given(st.binary(max_size=20))
def test_bytes_and_what_python_makes_of_them_are_the_same(name: bytes) -> None:
    assert printable(name) == printable(os.fsdecode(name))


@pytest.mark.parametrize("text", EVIL)
def test_a_message_is_one_line_that_prints(text: str) -> None:
    assert str(VentifsError(f"x{text}: no")).isprintable()
    assert str(Corrupt(f"x{text}: no")).isprintable()
    assert str(VentifsError("a\\x1b: no")) == "a\\x1b: no"


@pytest.mark.parametrize("text", [*EVIL, "a b", "it's", "\\", "$HOME", "", "'\x1b'\\n"])
def test_bash_reads_a_word_as_it_is(text: str) -> None:
    if text == "\x00" or text == "\ud800":
        return  # no argument can hold these
    word = shell_word(text)
    assert word.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"],
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.stdout == os.fsencode(text)


def test_no_two_names_are_printed_alike_where_the_locale_has_few_letters() -> None:
    shown = set()
    names = ["\xe9", "\udce9", r"\xe9", r"\u00e9", "\u6f22", "\N{SNAIL}"]
    for name in names:
        raw = io.BytesIO()
        stream = PrintableStream(raw, encoding="ascii", errors=UNENCODABLE)
        stream.write(printable(name))
        stream.flush()
        shown.add(raw.getvalue())
    assert len(shown) == len(names)


def test_a_stream_for_people_escapes_what_was_forgotten_and_passes_what_is_drawn() -> None:
    raw = io.BytesIO()
    stream = PrintableStream(raw, encoding="utf-8", errors="backslashreplace")
    stream.write("one\ntwo\x1b[31m\r\n\n")
    stream.write("\udcff\u202e")
    stream.write("a\u3164b\n")
    drawn = stream.drawing()
    drawn.write("\x1b[2K")
    print("three", file=stream)
    stream.flush()
    assert raw.getvalue() == b"one\ntwo\\x1b[31m\\r\n\n\\xff\\u202ea\\u3164b\n\x1b[2Kthree\n"

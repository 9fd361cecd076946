"""Listings that are printed as they are found: a million paths take no memory.

What is printed goes through the buffer of standard output, a system call every few thousand bytes.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

import click

from ventifs.text import one_line

print0_option = click.option(
    "-0",
    "--print0",
    "raw",
    is_flag=True,
    help="Raw names, each followed by a NUL: for xargs -0.",
)


def print_lines(lines: Iterable[str]) -> None:
    """Each on a line of its own."""
    for line in lines:
        sys.stdout.write(one_line(line) + "\n")


def print_raw(names: Iterable[bytes]) -> None:
    """Each as it is, followed by a NUL."""
    for name in names:
        sys.stdout.buffer.write(name + b"\0")
    sys.stdout.buffer.flush()


def print_array(elements: Iterable[Any]) -> None:
    """One JSON array, an element a line."""
    separator = "["
    for element in elements:
        sys.stdout.write(f"{separator}\n{json.dumps(element)}")
        separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")

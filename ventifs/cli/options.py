"""Options that several commands share: the number of processes, and patterns of paths."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import click

from ventifs.tree.patterns import Patterns

_JOBS_MAX = 64
_JOBS_DEFAULT_MAX = 8  # more only wait for the disk

Command = Callable[..., Any]


class InputFile(click.File):
    """A file that is read; `-` is standard input, which may be closed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Open it."""
        if value == "-" and sys.stdin is None:
            self.fail("standard input is closed; name a file, or pipe into it", param, ctx)
        return super().convert(value, param, ctx)


def _jobs_default() -> int:
    return min(len(os.sched_getaffinity(0)), _JOBS_DEFAULT_MAX)


def jobs_option(command: Command) -> Command:
    """The `--jobs` option; the command gets `jobs: int`."""
    return click.option(
        "--jobs",
        type=click.IntRange(1, _JOBS_MAX),
        default=_jobs_default,
        metavar="N",
        help="Processes that work side by side.  [default: one a processor, up to 8]",
    )(command)


def pattern_options(way: str, meaning: str) -> Callable[[Command], Command]:
    """The options `--WAY` and `--WAY-from`; the command passes their values to `patterns`."""

    def decorate(command: Command) -> Command:
        command = click.option(
            f"--{way}-from",
            multiple=True,
            type=InputFile("rb"),
            metavar="FILE",
            help=f"Lines of --{way}.",
        )(command)
        return click.option(
            f"--{way}", multiple=True, metavar="PATTERN", help=f"{meaning} May be repeated."
        )(command)

    return decorate


def patterns(texts: Iterable[str], files: Iterable[BinaryIO]) -> Patterns:
    """The patterns of a command line: those in files first, so that options have the last word.

    Raises:
        VentifsError: a pattern is invalid; the message names it.
    """
    return Patterns([*(line for file in files for line in file), *map(os.fsencode, texts)])

"""How many processes work at a command."""

import os
from collections.abc import Callable
from typing import Any

import click

_JOBS_MAX = 64
_JOBS_DEFAULT_MAX = 8  # more only wait for the disk


def _default() -> int:
    return min(len(os.sched_getaffinity(0)), _JOBS_DEFAULT_MAX)


def jobs_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The `--jobs` option; the command gets `jobs: int`."""
    return click.option(
        "--jobs",
        type=click.IntRange(1, _JOBS_MAX),
        default=_default,
        metavar="N",
        help="Processes that work side by side.  [default: one a processor, up to 8]",
    )(command)

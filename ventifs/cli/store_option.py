"""Which store a command works on: `--store`, then `$VENTIFS_STORE`, then the user's own.

The only module that reads the environment.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

VARIABLE = "VENTIFS_STORE"


def default_store() -> Path:
    """The default store, in the user's data directory."""
    import platformdirs  # slow to import

    return platformdirs.user_data_path("ventifs", appauthor=False)


def environment() -> Mapping[str, str]:
    """The environment, by which service managers pass sockets, directories and notify addresses."""
    return os.environ


def _chosen(context: click.Context, _: click.Parameter, value: str | None) -> Path:
    named = value or os.environ.get(VARIABLE)
    path = Path(named or default_store()).absolute()
    context.meta["store_named"] = bool(named)
    context.meta["store"] = path  # for the line that a failing command prints
    return path


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The `--store` option; the command gets an absolute `store: Path`."""
    return click.option(
        "--store",
        metavar="DIRECTORY",
        callback=_chosen,
        is_eager=True,
        help=f"The store.  [default: ${VARIABLE}, else ventifs in the user's data directory]",
    )(command)


wait_option = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait so long for every lock that is in use.  [default: only for what takes a moment]",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")

"""The `--reserve` option, and `$VENTIFS_RESERVE`: how much space new stores set aside."""

from collections.abc import Callable
from typing import Any

import click

from ventifs.cli.formatting import Size
from ventifs.cli.store_option import environment
from ventifs.store.reserve import RESERVE_MAX

VARIABLE = "VENTIFS_RESERVE"


def reserve_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option; the command gets `reserve: int | None`, in bytes, None if it was not given."""
    return click.option(
        "--reserve",
        type=Size(),
        callback=_in_range,
        metavar="SIZE",
        help=f"Space set aside for forgetting on a full disk; 0 for none.  [default: {default}]",
    )


def default_reserve() -> int | None:
    """The reserve of new stores by `$VENTIFS_RESERVE`, in bytes; None if that is not set.

    Raises:
        BadParameter: it is no size, or too large.
    """
    value = environment().get(VARIABLE)
    if not value:
        return None
    try:
        return _in_range(None, None, Size().convert(value, None, None))
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint=f"${VARIABLE}") from None


def _in_range(_: object, __: object, value: int | None) -> int | None:
    if value is not None and value > RESERVE_MAX:
        raise click.BadParameter("a reserve has at most 1TiB")
    return value

"""`ventifs init`."""

from pathlib import Path

import click

from ventifs.cli.formatting import Size, size
from ventifs.cli.output import echo
from ventifs.cli.store_option import store_option
from ventifs.cli.upkeep.reserve_option import VARIABLE, default_reserve, reserve_option
from ventifs.store import Store, permissions
from ventifs.store.header import (
    ARENA_SIZE_DEFAULT,
    ARENA_SIZE_MAX,
    ARENA_SIZE_MIN,
    read_header,
)
from ventifs.store.reserve import reserve_space, room_needed
from ventifs.text import printable


@click.command(short_help="Make a new, empty store.")
@store_option
@click.option(
    "--arena-size",
    type=Size(),
    default=ARENA_SIZE_DEFAULT,
    metavar="SIZE",
    help="Size at which arena files are sealed, 4MiB to 3GiB.  [default: 256MiB]",
)
@reserve_option(f"${VARIABLE}, else 64MiB, at most 1 % of the file system")
@click.option("--shared", metavar="GROUP", help="Let this group read and write it.")
@click.option("--readers", metavar="GROUP", help="Let this group read it.")
def init(
    store: Path, arena_size: int, reserve: int | None, shared: str | None, readers: str | None
) -> None:
    """Make a new, empty store.

    The directory must be empty or not there yet; missing parents are made. Only its owner can
    reach the store, unless a GROUP is given, whatever the umask of those who write to it.

    The reserve is a file whose space lets versions be forgotten when the disk is full. Where there
    is no room for it, the next command that writes to the store and finds room makes it.
    """
    if shared is not None and readers is not None:
        raise click.UsageError("--shared lets its group read too; give one of --shared, --readers")
    if not ARENA_SIZE_MIN <= arena_size <= ARENA_SIZE_MAX:
        raise click.BadParameter("an arena has 4MiB to 3GiB", param_hint="--arena-size")
    access = permissions.PRIVATE
    if shared is not None:
        access = permissions.shared(shared)
    elif readers is not None:
        access = permissions.readers(readers)
    reserve = default_reserve() if reserve is None else reserve
    Store.create(store, arena_size=arena_size, access=access, reserve=reserve)
    echo(f"made an empty store at {printable(store)}")
    wanted = read_header(store).reserve
    if reserve_space(store) < wanted:
        echo(
            f"note: there is no room for its reserve of {size(wanted)} yet; a command that writes "
            f"makes it when {size(room_needed(wanted))} are free"
        )

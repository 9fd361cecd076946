"""`ventifs mount`: a version or live export of a 9P server as a directory of this machine."""

import time
from pathlib import Path

import click

from ventifs.cli.output import echo
from ventifs.errors import VentifsError
from ventifs.net.address import Address, parse_address
from ventifs.ninep.mount.mount import mount as mount_version
from ventifs.ninep.mount.options import LiveMount, fstab_line, mount_options, unit_line
from ventifs.text import printable
from ventifs.vfs.live.export import Sharing


@click.command(short_help="Mount a version from a 9P server.")
@click.argument("address", metavar="ADDRESS")
@click.argument("version", metavar="VERSION")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "options",
    multiple=True,
    metavar="OPTIONS",
    help="Options of mount(8) and the kernel's 9p.  May be repeated.",
)
@click.option(
    "--live",
    "sharing",
    type=click.Choice(["shared", "exclusive"]),
    help="VERSION is a live export of this kind; -o rw mounts it for writing.",
)
@click.option(
    "--print", "print_only", is_flag=True, help="Mount nothing; print the line for /etc/fstab."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the server.",
)
def mount(
    address: str,
    version: str,
    directory: Path,
    *,
    options: tuple[str, ...],
    sharing: Sharing | None,
    print_only: bool,
    timeout: float,
) -> None:
    """Mount a version from a 9P server.

    ADDRESS is tcp://HOST:PORT, unix:///PATH or vsock://CID:PORT; of a guest's own host, vsock://host.
    VERSION is what the server offers: NAME@TIME, NAME@latest, NAME for all its versions, / for all
    names; a path in it follows after ':', as in web01@2026-11-23:/etc. With --live it is NAME, or
    NAME:/PATH, of a directory that the server serves as it is now.

    Needs root, and a kernel with 9p. Mounted read-only, nosuid and nodev; -o suid,dev takes these
    back. A fixed version is cached with cache=loose, an exclusive live export with cache=mmap,
    anything else is not cached.
    'umount DIR' ends it.
    """
    server = parse_address(address)
    more = ",".join(options)
    live = None if sharing is None else LiveMount(sharing)
    if print_only:
        echo(_fstab_line(server, version, directory, more, live))
        return
    chosen = mount_options(version, time.time_ns(), more, live)
    mount_version(server, version, directory.absolute(), chosen, timeout)


def _fstab_line(
    address: Address, version: str, directory: Path, more: str, live: LiveMount | None
) -> str:
    where = str(directory.absolute())
    line = fstab_line(address, version, where, now_ns=time.time_ns(), more=more, live=live)
    if line is None:
        chosen = mount_options(version, time.time_ns(), more, live)
        live = live and LiveMount(live.sharing, writable="ro" not in chosen.flags)
        raise VentifsError(
            f"{printable(str(address))}: the kernel cannot connect there by itself, so fstab "
            f"cannot mount it; let a systemd unit run: {unit_line(address, version, where, live)}"
        )
    return line

"""`--live` of `ventifs serve`: from its words to open directories that may be served."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click

from ventifs.cli.output import echo
from ventifs.net.address import Address, UnixAddress
from ventifs.net.allow_list import AllowList
from ventifs.net.dial import TransportError
from ventifs.net.listen import default_address
from ventifs.ninep.mount.options import LiveMount, MountError, mount_line
from ventifs.serving.settings import Squashed
from ventifs.store import Store
from ventifs.store.header import NotAStore, read_header
from ventifs.tree.versions.catalog import versions
from ventifs.vfs.live.export import ExportError, LiveExport, check_names, parse_export
from ventifs.vfs.live.exposure import OpenExport, Own, check_exposure, open_export


def parse_live(texts: Iterable[str], squash: Squashed) -> tuple[LiveExport, ...]:
    """The exports that `--live` was given.

    Raises:
        click.BadParameter: one is written wrongly, or two have one name.
    """
    try:
        exports = tuple(parse_export(text, squash) for text in texts)
        check_names(exports)
    except ExportError as error:
        raise click.BadParameter(str(error), param_hint="--live") from None
    return exports


def served_store(store: Path, meta: dict[str, Any], exports: Sequence[LiveExport]) -> str:
    """The store to serve beside live exports; empty if none was named and none is there.

    Args:
        store: the one that was chosen.
        meta: the command's; without a store, no failure names one.
        exports: the live ones.

    Raises:
        VentifsError: it is no store, or versions have a live export's name.
    """
    if exports and not meta["store_named"] and not store.exists():
        del meta["store"]
        return ""
    try:
        read_header(store)  # is it a store? checked first, since workers open it
    except NotAStore as error:
        if not exports:
            raise
        raise NotAStore(
            f"{error}; without --store and $VENTIFS_STORE only the directories are served"
        ) from None
    if exports:
        with Store.open(store) as opened:
            check_names(exports, [each.name for each in exports if versions(opened, each.name)])
    return str(store)


def open_exports(
    stack: ExitStack,
    exports: Iterable[LiveExport],
    own: Sequence[Own],
) -> list[OpenExport]:
    """Open the directories of exports, and check that they may be served.

    Args:
        stack: closes them.
        exports: which.
        own: what ventifs uses.

    Raises:
        NotExportable: one cannot be served, or must not be.
    """
    opened = []
    for export in exports:
        opened.append(open_export(export))
        stack.callback(os.close, opened[-1].fd)
    check_exposure(opened, own, os.geteuid())
    return opened


def own_paths(
    store: str,
    addresses: Iterable[Address],
    allow_files: Iterable[str],
    environ: Mapping[str, str],
) -> list[Own]:
    """What a server uses itself, and no export may hold.

    Args:
        store: its directory; empty without one.
        addresses: where it listens.
        allow_files: the files of its rules.
        environ: the environment.
    """
    own = [Own("the store", store, "directory")] if store else []
    own += [
        Own("the socket", address.path)
        for address in addresses
        if isinstance(address, UnixAddress) and address.path.startswith("/")
    ]
    own += [Own("the allow file", os.path.abspath(name)) for name in allow_files if name != "-"]
    with suppress(TransportError):
        control = os.path.dirname(default_address(environ, os.getuid()).path)
        own.append(Own("the directory of control sockets", control, "directory"))
    return own


def print_mounts(address: Address, exports: Iterable[LiveExport], allow: AllowList) -> None:
    """Print for each export how it is mounted from an address."""
    for export in exports:
        if not allow.gives(export.name):
            rule = f"PEER {export.name}"
            echo(f"nobody may mount {export.name}: no rule gives it; add --allow '{rule}'")
            continue
        live = LiveMount(export.sharing, export.writable)
        try:
            line = mount_line(address, export.name, now_ns=time.time_ns(), live=live)
        except MountError as error:
            echo(f"mount {export.name} from another address: {error}")
        else:
            echo(f"mount {export.name}, as root, with: {line}")

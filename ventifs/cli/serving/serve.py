"""`ventifs serve`."""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TextIO

import click
import trio
from msgspec.structs import replace

from ventifs.cli.formatting import Size
from ventifs.cli.interruption import AtOnce
from ventifs.cli.options import InputFile
from ventifs.cli.output import echo
from ventifs.cli.serving.front_end import live_main, local_sessions, worker_main
from ventifs.cli.serving.live_options import (
    open_exports,
    own_paths,
    parse_live,
    print_mounts,
    served_store,
)
from ventifs.cli.store_option import environment, store_option
from ventifs.errors import VentifsError
from ventifs.net.address import Address, parse_address
from ventifs.net.allow_list import AllowList, parse_rule, parse_rules
from ventifs.net.channel import standard_channel
from ventifs.net.dial import TransportError
from ventifs.net.listen import default_address, forsake, inherited, listen, local_address
from ventifs.net.peer import STDIO
from ventifs.ninep.mount.options import mount_line
from ventifs.ninep.session.limits import SessionLimits
from ventifs.serving.control import control_address, control_addresses
from ventifs.serving.live_exports import LiveExports
from ventifs.serving.log import event
from ventifs.serving.service import ServicePlan, first_of, serve_channel
from ventifs.serving.service import serve as serve_plan
from ventifs.serving.settings import (
    CACHE_BYTES_DEFAULT,
    Access,
    Settings,
    Squashed,
    client_bytes_default,
    start_log,
)
from ventifs.serving.worker_pool import WorkerPool

_WORKERS_MAX = 64
_CACHE_MIN = 16 << 20  # per worker
_CLIENTS_MIN = 4 << 20  # per worker: a session without files takes 1.1 MiB, a peer has half of this
# Bytes that are not UTF-8 are allowed in comments; in a rule they are reported as other mistakes.
_RULES_FILE = InputFile(encoding="utf-8", errors="surrogateescape")
_MSIZE_MIN, _MSIZE_MAX = 4096, 16 << 20


@click.command(short_help="Serve versions and directories over 9P.")
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@store_option
@click.option(
    "--live",
    "live_texts",
    multiple=True,
    metavar="NAME=DIR[,rw][,exclusive]",
    help="Serve a directory of this machine as it is now, under a name; for one client at a time "
    "if exclusive.  A comma in DIR is written twice.  May be repeated.",
)
@click.option("--stdio", is_flag=True, help="Serve standard input and output, one client, instead.")
@click.option(
    "--allow",
    "rules",
    multiple=True,
    metavar="RULE",
    help="Which names a peer may reach: '192.0.2.0/24 web*,db01', 'cid:5 web01', "
    "'user:alice *'.  May be repeated; a peer that no rule is for reaches nothing.",
)
@click.option(
    "--allow-file",
    "rule_files",
    multiple=True,
    type=_RULES_FILE,
    metavar="FILE",
    help="Rules of --allow, one a line; # begins a comment.",
)
@click.option(
    "--access",
    type=click.Choice(["trust", "mode"]),
    default="trust",
    show_default=True,
    help="Who checks permissions: the client's kernel, or the server.",
)
@click.option(
    "--squash",
    type=click.Choice(["none", "root", "all"]),
    default="none",
    show_default=True,
    help="Which users become nobody: with --access mode, and in live directories.",
)
@click.option("--scores", is_flag=True, help="Serve versions by score, too: score:HEX.")
@click.option(
    "--workers",
    type=click.IntRange(1, _WORKERS_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that serve versions; they divide the memory.",
)
@click.option(
    "--cache",
    type=Size(),
    default=CACHE_BYTES_DEFAULT,
    metavar="SIZE",
    help="Memory for what was read.  [default: 256MiB]",
)
@click.option(
    "--client-memory",
    type=Size(),
    metavar="SIZE",
    help="Memory for what clients hold: files, messages; one client's is at most half.  "
    "[default: an eighth of the machine's]",
)
@click.option(
    "--msize",
    type=Size(),
    default=SessionLimits().msize_max,
    metavar="SIZE",
    help="The largest message.  [default: 1MiB and 24 bytes]",
)
@click.option("--trace", is_flag=True, help="Print every message on standard output.")
@click.option(
    "--metrics", metavar="ADDRESS", help="Serve metrics for Prometheus there, by HTTP at /metrics."
)
@click.option("--log-json", is_flag=True, help="Log lines of JSON.")
def serve(
    addresses: tuple[str, ...],
    *,
    store: Path,
    live_texts: tuple[str, ...],
    stdio: bool,
    rules: tuple[str, ...],
    rule_files: tuple[TextIO, ...],
    access: Access,
    squash: Squashed,
    scores: bool,
    workers: int,
    cache: int,
    client_memory: int | None,
    msize: int,
    trace: bool,
    metrics: str | None,
    log_json: bool,
) -> None:
    """Serve versions over 9P, read-only, and live directories.

    ADDRESS is tcp://HOST:PORT, unix:///PATH or vsock://CID:PORT, or Plan 9's tcp!HOST!PORT; several
    may be given, and sockets that systemd hands over are served beside them. With none, it is a
    Unix socket that only you can reach.

    TCP does not prove a client's identity: a client can claim to be any user. Without --allow only
    what nobody may read is served over TCP and vsock. New versions appear by themselves. SIGTERM
    and SIGINT end it when requests that have arrived are answered; a second one ends it at once.

    --live needs no store: without --store, and where there is none by default, only the
    directories are served. A directory is read-only unless rw follows it.
    """
    live = parse_live(live_texts, squash)
    if cache < workers * _CACHE_MIN:
        raise click.BadParameter("each worker needs 16MiB", param_hint="--cache")
    clients = client_bytes_default() if client_memory is None else client_memory
    parts = workers + len(live)
    if clients < parts * _CLIENTS_MIN:
        what = "each worker and live directory" if live else "each worker"
        raise click.BadParameter(f"{what} needs 4MiB", param_hint="--client-memory")
    if not _MSIZE_MIN <= msize <= _MSIZE_MAX:
        raise click.BadParameter("messages have 4KiB to 16MiB", param_hint="--msize")
    if stdio and (addresses or workers > 1 or metrics):
        raise click.UsageError("--stdio serves one client; no addresses, --workers or --metrics")
    if squash != "none" and access == "trust" and not live:
        raise click.UsageError("--squash needs --access mode: with trust, clients' kernels check")
    settings = Settings(
        store=served_store(store, click.get_current_context().meta, live),
        cache_bytes=cache,
        client_bytes=clients // parts * workers,
        access=access,
        squash=squash,
        scores=scores,
        message_bytes=msize,
        log_json=log_json,
        trace=trace,
        live=live,
    )
    allow = _allow_list(rules, rule_files)
    allow_files = [file.name for file in rule_files]
    start_log(as_json=log_json)
    if stdio:
        _serve_stdio(settings, allow, allow_files)
    else:
        _serve_addresses(settings, allow, allow_files, addresses, workers, metrics)


def _allow_list(rules: Iterable[str], files: Iterable[TextIO]) -> AllowList:
    parsed = [rule for file in files for rule in parse_rules(file, file.name)]
    given = [*parsed, *map(parse_rule, rules)]
    return AllowList(tuple(given)) if given or files else AllowList()


def _serve_stdio(settings: Settings, allow: AllowList, allow_files: Sequence[str]) -> None:
    if not allow.exports(STDIO):
        raise VentifsError("the allow list gives standard input nothing; add --allow 'stdio *'")
    with ExitStack() as stack:
        live = _live_exports(stack, settings, (), allow_files)
        sessions = stack.enter_context(local_sessions(settings))
        channel = standard_channel()
        _run(serve_channel, channel, sessions, allow, live)


def _live_exports(
    stack: ExitStack, settings: Settings, addresses: Iterable[Address], allow_files: Iterable[str]
) -> LiveExports | None:
    """The live exports, with their directories open, if there are any; each gets its memory."""
    if not settings.live:
        return None
    own = own_paths(settings.store, addresses, allow_files, environment())
    opened = open_exports(stack, settings.live, own)
    return LiveExports(settings, opened, live_main)


def _serve_addresses(
    settings: Settings,
    allow: AllowList,
    allow_files: Sequence[str],
    texts: Iterable[str],
    workers: int,
    metrics: str | None,
) -> None:
    environ = environment()
    addresses: list[Address] = [parse_address(text) for text in texts]
    scraped = None if metrics is None else parse_address(metrics)
    with ExitStack() as stack:
        listeners = inherited(environ)
        by_default = not addresses and not listeners
        if by_default:
            addresses.append(_default_address(environ))
        for address in addresses:
            listeners += _listening(stack, address)
        scrapes = [] if scraped is None else _listening(stack, scraped)
        control = _control(stack, environ)
        served = list(dict.fromkeys(map(local_address, listeners)))
        for warning in allow.warnings(served):
            event("warning", level=logging.WARNING, note=warning)
        own_sockets = [*served, *map(local_address, scrapes)]
        part = replace(settings, client_bytes=settings.client_bytes // workers)
        live = _live_exports(stack, part, own_sockets, allow_files)
        plan = ServicePlan(
            store=settings.store,
            addresses=[str(address) for address in served],
            listeners=listeners,
            allow=allow,
            control=control,
            metrics=scrapes,
            live=live,
        )
        backend = (
            WorkerPool(settings, workers, worker_main)
            if workers > 1
            else stack.enter_context(local_sessions(settings))
        )

        def ready() -> None:
            for address in served:
                echo(f"listening on {address}")
            for address in dict.fromkeys(map(local_address, scrapes)):
                echo(f"metrics at {address}")
            if by_default and settings.store:
                line = mount_line(served[0], "/", now_ns=time.time_ns())
                echo(f"mount it, as root, with: {line}")
            print_mounts(served[0], settings.live, allow)
            sys.stdout.flush()
            _notify(environ, "READY=1")

        _run(serve_plan, plan, backend, ready)


def _default_address(environ: Mapping[str, str]) -> Address:
    """Where a server listens to which no address was given; `environ` is the environment.

    Raises:
        TransportError: there is no directory for its socket.
    """
    try:
        return default_address(environ, os.getuid())
    except TransportError as error:
        raise TransportError(f"{error}, or name an address: unix:///DIRECTORY/9p.sock") from None


def _listening(stack: ExitStack, address: Address) -> list[socket.socket]:
    """Open listeners on an address; at the end they are closed and their socket files removed."""
    sockets = listen(address)
    stack.callback(forsake, address)
    for each in sockets:
        stack.enter_context(each)
    return sockets


def _control(stack: ExitStack, environ: Mapping[str, str]) -> socket.socket | None:
    """The listener that `ventifs servers` queries; None, with a warning, if it cannot be made.

    Also removes the sockets of killed servers beside it.

    Args:
        stack: closes the listener at the end, and removes its socket.
        environ: the environment, from which the directory of the sockets follows.
    """
    try:
        directory = Path(default_address(environ, os.getuid()).path).parent
        [listener] = _listening(stack, control_address(directory, os.getpid()))
        for each in control_addresses(directory):
            forsake(each)  # removes those of killed servers; live servers keep theirs
    except (VentifsError, TransportError) as error:
        note = f"ventifs servers will not show this one: {error}"
        event("warning", level=logging.WARNING, note=note)
        return None
    return listener


def _run(function: object, *arguments: object) -> None:
    """Run trio; of the exception groups that nurseries raise, raise the first exception alone."""
    try:
        with AtOnce():  # except while it serves, when it handles signals itself
            trio.run(function, *arguments)  # type: ignore[arg-type]
    except BaseExceptionGroup as group:
        raise first_of(group) from None


def _notify(environ: Mapping[str, str], state: str) -> None:
    """Notify systemd, as sd_notify(3) does; a failure is ignored. `environ` is the environment."""
    path = environ.get("NOTIFY_SOCKET", "")
    if path.startswith(("/", "@")):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), path.replace("@", "\0", 1))

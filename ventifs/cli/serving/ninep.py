"""`ventifs 9p`: look at, and copy from, any server that speaks 9P."""

import os
import pwd
import signal
import stat
import sys
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import trio

from ventifs.cli.formatting import count, exact, size
from ventifs.cli.interruption import AtOnce
from ventifs.cli.options import Command
from ventifs.cli.output import echo, print_json
from ventifs.cli.progress import EntryProgress
from ventifs.cli.store_option import json_option
from ventifs.cli.versions.listing import print0_option, print_array, print_lines, print_raw
from ventifs.errors import VentifsError
from ventifs.net.address import Address, AddressError, parse_address
from ventifs.ninep.client.attributes import Status
from ventifs.ninep.client.checks import RemoteError
from ventifs.ninep.client.client import Client
from ventifs.ninep.client.download import Downloaded, Downloader
from ventifs.ninep.client.listing import FoundFile, reason_of, survey
from ventifs.ninep.protocol.messages import ALL, NONUNAME, Dialect
from ventifs.ninep.protocol.trace import Tracer
from ventifs.ninep.protocol.wire import QTDIR
from ventifs.text import printable
from ventifs.tree.versions.times import time_text

_FAILED = 1  # exit codes: some of it could not be read or made
_LEFT = 3  # copied, but without what the user may not have
_SHOWN_MAX = 20
_DIALECTS = {dialect.version.decode(): dialect for dialect in Dialect}

_T = TypeVar("_T")


class _Server(msgspec.Struct, frozen=True):
    """The server to connect to, how to speak to it, and the user to attach as."""

    address: Address
    dialect: Dialect
    aname: bytes
    user: bytes
    uid: int
    trace: bool

    def run(self, use: Callable[[Client], Awaitable[_T]]) -> _T:
        """Connect to the server, and return what `use` returns for the client.

        Raises:
            VentifsError: it failed; the message names the server where the server is the cause.
        """
        tracer = Tracer(partial(echo, err=True)) if self.trace else None
        interruptions: list[int] = []

        async def watch(task_status: trio.TaskStatus[None], stop: trio.CancelScope) -> None:
            with trio.open_signal_receiver(*_signals()) as signals:
                task_status.started()
                interruptions.append(await anext(signals))
                stop.cancel()

        async def main() -> list[_T]:
            results: list[_T] = []
            failure: Exception | None = None
            async with trio.open_nursery() as nursery:
                await nursery.start(lambda task_status: watch(task_status, nursery.cancel_scope))
                try:
                    async with Client.connect(
                        self.address,
                        dialect=self.dialect,
                        aname=self.aname,
                        user=self.user,
                        uid=self.uid,
                        trace=tracer,
                    ) as client:
                        results.append(await use(client))
                except Exception as error:
                    failure = error
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
            return results

        try:
            with AtOnce():  # for signals before and after `watch`
                results = trio.run(main)
        except RemoteError as error:
            what = f" '{printable(self.aname)}'" if self.aname else ""
            raise VentifsError(f"{self.address}: cannot attach{what}: {error}") from None
        if interruptions:
            signal.raise_signal(interruptions[0])  # as if the signal had arrived now
        return results[0]


def _signals() -> list[signal.Signals]:
    """The signals that end a command, except those that the parent made it ignore."""
    both = (signal.SIGINT, signal.SIGTERM)
    return [number for number in both if signal.getsignal(number) is not signal.SIG_IGN]


def _address(_: click.Context, __: click.Parameter, value: str) -> Address:
    try:
        return parse_address(value)
    except AddressError as error:
        raise click.UsageError(str(error)) from None


def _server_options(command: Command) -> Command:
    """ADDRESS and the options of a connection; the command gets `server: _Server` first."""

    @wraps(command)
    def with_server(
        address: Address,
        dialect: str | None,
        aname: str,
        user: str | None,
        *,
        trace: bool,
        **others: Any,
    ) -> Any:
        name, uid = _user(user)
        dialects = _DIALECTS[dialect] if dialect else ALL
        return command(_Server(address, dialects, os.fsencode(aname), name, uid, trace), **others)

    options = [
        click.argument("address", callback=_address),
        click.option(
            "--dialect",
            type=click.Choice(list(_DIALECTS)),
            help="What to speak.  [default: the best that the server speaks]",
        ),
        click.option(
            "--aname",
            default="",
            metavar="NAME",
            help="The tree to attach to, such as web01@2026-11-23:/etc; PATH begins "
            "there.  [default: the server's own]",
        ),
        click.option(
            "--user",
            metavar="USER",
            help="Who one is, a name or a number.  [default: the user that runs it]",
        ),
        click.option("--trace", is_flag=True, help="Print every message on standard error."),
    ]
    decorated: Command = with_server
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _user(user: str | None) -> tuple[bytes, int]:
    """The uname and n_uname to attach with."""
    if user is None:
        user = str(os.geteuid())
    try:
        if user.isdecimal() and user.isascii():
            uid = int(user)
            if uid > NONUNAME:
                raise click.UsageError(f"--user {user}: numbers of users end at {NONUNAME}")
            return os.fsencode(pwd.getpwuid(uid).pw_name), uid
        return os.fsencode(user), pwd.getpwnam(user).pw_uid
    except (KeyError, OverflowError):  # this host has no such user
        return os.fsencode(user), int(user) if user.isdecimal() else NONUNAME


@contextmanager
def _named(path: bytes) -> Iterator[None]:
    """Put the path in front of a server's error message about it."""
    try:
        yield
    except RemoteError as error:
        raise VentifsError(f"{printable(path)}: {reason_of(error)}") from None


def _path_argument(**settings: Any) -> Callable[[Command], Command]:
    return click.argument("path", callback=lambda _, __, value: os.fsencode(value), **settings)


@click.group("9p", short_help="Look at and copy from any 9P server.")
def ninep() -> None:
    """Look at, and copy from, any server that speaks 9P.

    ADDRESS is tcp://HOST:PORT, unix:///PATH or vsock://CID:PORT, or a dial string of Plan 9 such as
    tcp!HOST!PORT. PATH is walked from the root of what is attached to; links are not followed.
    """


@ninep.command(short_help="List a directory of a server.")
@_server_options
@_path_argument(default="/")
@json_option
@print0_option
@click.option("-l", "long", is_flag=True, help="With mode, owner, size and time.")
@click.option("-R", "--recursive", is_flag=True, help="And everything below it.")
def ls(
    server: _Server, path: bytes, *, as_json: bool, raw: bool, long: bool, recursive: bool
) -> int:
    """List a directory of a server, or one file."""
    listed: list[Any] = []
    failed: list[bytes] = []

    def tell(found: FoundFile) -> None:
        if as_json:
            listed.append(_status_json(found.path, found.status, found.target))
        elif raw:
            print_raw([found.path])
        else:
            print_lines([_long_line(found) if long else printable(found.path)])

    def trouble(at: bytes, reason: str) -> None:
        failed.append(at)
        echo(f"{printable(at)}: {reason}", err=True)

    async def use(client: Client) -> None:
        with _named(path):
            if as_json or long or recursive:
                await survey(client, path, tell, trouble, recursive=recursive)
                return
            names = await _names(client, path)
        if raw:
            print_raw(names)
        else:
            print_lines(map(printable, names))

    server.run(use)
    if as_json:
        print_array(listed)
    return _FAILED if failed else 0


async def _names(client: Client, path: bytes) -> list[bytes]:
    """The sorted names in a directory; for any other file its own name."""
    async with await client.walk(path) as fid:
        if not fid.qid.type & QTDIR:
            return [os.path.basename(path.rstrip(b"/"))]
        await fid.open()
        return sorted(entry.name for entry in await fid.entries())


@ninep.command(short_help="Print a file of a server.")
@_server_options
@_path_argument()
def cat(server: _Server, path: bytes) -> None:
    """Print a file of a server on standard output."""

    async def use(client: Client) -> None:
        with _named(path):
            async with await client.walk(path) as fid:
                status = await fid.status()
                if not stat.S_ISREG(status.mode):
                    raise VentifsError(f"{printable(path)}: {_instead(status.mode)}")
                await fid.open()
                await fid.read_to(sys.stdout.buffer.write, expected=status.size)

    server.run(use)
    sys.stdout.buffer.flush()


def _instead(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory; 'ventifs 9p ls' lists it"
    if stat.S_ISLNK(mode):
        return "a symbolic link, which is not followed; 'ventifs 9p stat' says where it leads"
    return "not a regular file"


@ninep.command("stat", short_help="Show what a server tells of a file.")
@_server_options
@_path_argument(default="/")
@json_option
def stat_(server: _Server, path: bytes, *, as_json: bool) -> None:
    """Show all that a server tells of a file: attributes, qid, extended attributes."""

    async def use(client: Client) -> dict[str, Any]:
        with _named(path):
            async with await client.walk(path) as fid:
                status = await fid.status()
                target = await fid.readlink() if stat.S_ISLNK(status.mode) else b""
                facts = _status_json(path, status, target)
                facts["dialect"] = client.dialect.version.decode()
                try:
                    facts["xattrs"] = [exact(name, "name") for name in await fid.xattr_names()]
                except RemoteError:  # this server, or this dialect, has none
                    facts["xattrs"] = []
                return facts

    facts = server.run(use)
    if as_json:
        print_json(facts)
        return
    for key in facts:
        if not key.endswith("_base64"):
            echo(f"{key:8} {_shown(facts, key)}")


def _shown(facts: dict[str, Any], key: str) -> str:
    value = facts[key]
    if key == "xattrs":
        return ", ".join(printable(_bytes_of(each, "name")) for each in value) or "-"
    if key in {"path", "target", "owner", "group"}:
        return printable(_bytes_of(facts, key))
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _bytes_of(facts: dict[str, Any], key: str) -> bytes:
    coded = facts.get(f"{key}_base64")
    return b64decode(coded) if coded else os.fsencode(facts[key])


@ninep.command(short_help="Copy a file or directory from a server.")
@_server_options
@_path_argument()
@click.argument("target", type=click.Path(readable=False, path_type=Path), metavar="LOCAL")
@json_option
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also owners, set-uid, devices, all attributes: if it is trusted.",
)
def get(server: _Server, path: bytes, target: Path, *, as_json: bool, everything: bool) -> int:
    """Copy a file or directory from a server, with modes, times and links.

    A directory is copied into LOCAL, a new or empty directory; anything else as LOCAL, which must
    not be there. Nothing is ever overwritten, and nothing is made outside LOCAL. What is copied
    belongs to the user, without set-uid bits and with attributes of users only; --all keeps
    everything, for servers that are trusted. Exits with 3 if something was left out, and with 1 if
    something failed; both are listed, and all else is copied.
    """

    async def use(client: Client) -> Downloaded:
        with _named(path), EntryProgress("copying", quiet=as_json) as progress:
            return await Downloader(
                client,
                everything=everything,
                progress=lambda done, at: progress(done.entries, done.size, at),
            ).run(path, target)

    done = server.run(use)
    if as_json:
        print_json(_done_json(done))
    else:
        _print_done(done, target)
    if done.failed:
        return _FAILED
    return _LEFT if done.left else 0


def _print_done(done: Downloaded, target: Path) -> None:
    troubles = [f"{printable(path) or '/'}: not copied: {why}" for path, why in done.failed]
    troubles += [f"{printable(path) or '/'}: left out: {what}" for path, what in done.left]
    for line in troubles[:_SHOWN_MAX]:
        echo(line, err=True)
    more = len(troubles) - _SHOWN_MAX + done.unlisted
    if more > 0:
        echo(f"... and {more:,} more", err=True)
    but = f", but {count(len(done.failed), 'path')} could not be" if done.failed else ""
    echo(
        f"copied {count(done.entries, 'entry', 'entries')}, {size(done.size)} "
        f"to {printable(os.fsencode(target))}{but}"
    )


def _done_json(done: Downloaded) -> dict[str, Any]:
    return {
        "entries": done.entries,
        "bytes": done.size,
        "left": [{**exact(path), "left": what} for path, what in done.left],
        "failed": [{**exact(path), "reason": why} for path, why in done.failed],
        "unlisted": done.unlisted,
    }


def _long_line(found: FoundFile) -> str:
    status = found.status
    amount = str(status.size)
    if stat.S_IFMT(status.mode) in (stat.S_IFCHR, stat.S_IFBLK):
        amount = f"{os.major(status.rdev)},{os.minor(status.rdev)}"
    target = f" -> {printable(found.target)}" if found.target else ""
    when = time_text(status.mtime_ns)[:19].replace("T", " ")
    owner, group = printable(status.owner), printable(status.group)
    return (
        f"{stat.filemode(status.mode)} {owner:>5} {group:>5} {amount:>12} {when} "
        f"{printable(found.path)}{target}"
    )


def _status_json(path: bytes, status: Status, target: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {
        **exact(path),
        "mode": f"{status.mode:o}",
        **exact(status.owner, "owner"),
        **exact(status.group, "group"),
        "mtime": time_text(status.mtime_ns),
        "nlink": status.nlink,
        "qid": [status.qid.type, status.qid.version, status.qid.path],
    }
    if stat.S_ISREG(status.mode):
        facts["size"] = status.size
    elif stat.S_IFMT(status.mode) in (stat.S_IFCHR, stat.S_IFBLK):
        facts["device"] = [os.major(status.rdev), os.minor(status.rdev)]
    elif target:
        facts |= exact(target, "target")
    return facts

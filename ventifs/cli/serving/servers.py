"""`ventifs servers`: what running servers do."""

import os
import time
from pathlib import Path

import click
import msgspec

from ventifs.cli.formatting import count, duration, share, size
from ventifs.cli.output import echo, print_json
from ventifs.cli.store_option import environment, json_option
from ventifs.errors import VentifsError
from ventifs.net.listen import default_address
from ventifs.serving.activity import Activity, LiveActivity, SessionActivity
from ventifs.serving.control import servers as running


@click.command(short_help="Show what running servers do.")
@json_option
def servers(*, as_json: bool) -> None:
    """Show what running servers do: their sessions, what they asked for, and what was at hand.

    Those of your own; as root also the system's.
    """
    found = running(Path(default_address(environment(), os.getuid()).path).parent)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    if not found:
        raise VentifsError("no server of yours runs; start one with ventifs serve")
    for number, server in enumerate(found):
        if number:
            echo()
        for line in _lines(server):
            echo(line)


def _lines(server: Activity) -> list[str]:
    process, totals = server.process, server.process.totals
    asked = totals.hits + totals.colds
    workers = f", {count(server.workers, 'worker')}" if server.workers else ""
    restarts = f", {count(server.restarts, 'restart')}" if server.restarts else ""
    return [
        f"{server.store or 'live exports'} at {', '.join(server.addresses)}",
        f"  running    {duration(time.time() - server.started)}, "
        f"process {server.pid}{workers}{restarts}",
        f"  answered   {count(sum(totals.operations.values()), 'operation')}, "
        f"{totals.errors:,} with an error; {size(totals.bytes_out)}",
        f"  at hand    {share(totals.hits, asked)}; cache {size(process.cache_bytes)} of "
        f"{size(process.cache_bytes_max)}",
        f"  memory     clients hold {size(process.client_bytes)} of "
        f"{size(process.client_bytes_max)}, each at most half",
        *map(_live_line, server.live),
        f"  sessions   {len(process.sessions):,} now, {totals.sessions:,} over, "
        f"{server.refused:,} refused",
        *(f"    {line}" for line in map(_session_line, process.sessions)),
    ]


def _live_line(live: LiveActivity) -> str:
    written = "read and written" if live.writable else "read"
    process = "no process" if live.pid is None else f"process {live.pid}"
    silent = "" if live.answers else " that does not answer: its disk may hang"
    restarts = f", {count(live.restarts, 'restart')}" if live.restarts else ""
    return (
        f"  live       {live.name}: {live.directory}, {live.sharing}, {written}; "
        f"{count(live.connections, 'connection')}, {process}{silent}{restarts}"
    )


def _session_line(session: SessionActivity) -> str:
    return (
        f"{session.peer}: {session.export or '-'} as {session.user or '-'}, "
        f"{session.dialect or 'no version yet'}, {count(session.fids, 'fid')}, "
        f"{session.in_flight:,} in flight, {count(session.operations, 'operation')}, "
        f"{size(session.bytes_out)}, {size(session.memory)} of memory, "
        f"{duration(time.time() - session.since)}"
    )

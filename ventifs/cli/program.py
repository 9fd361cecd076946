"""The `ventifs` command: finds and runs the subcommand, and reports a failure in one line.

Subcommands live in modules that are imported only when they are run, so that `ventifs --help`
answers at once. Exit codes: 0 done; 1 failed, or a check found something, or standard output is
full or closed; 2 wrong usage; 3 done, but not everything; 130 and 143 interrupted by SIGINT and
SIGTERM; 141 nothing else failed, but the reader of the output closed it before its end. See
`streams` for which commands stop then.
"""

import gc
import importlib
import logging
import os
import sys
from signal import SIGINT, SIGTERM, Signals
from typing import Any, NoReturn

import click

from ventifs import __version__
from ventifs.cli import interruption
from ventifs.cli.interruption import EXIT_CODES, Terminated
from ventifs.cli.output import LogLine, echo
from ventifs.cli.streams import Output, take_over
from ventifs.errors import VentifsError
from ventifs.text import one_line, printable

# name: (module, attribute, help in a line); a test compares the help with the commands' own
COMMANDS = {
    "init": ("ventifs.cli.upkeep.store", "init", "Make a new, empty store."),
    "archive": ("ventifs.cli.archiving.archive", "archive", "Archive a directory, tar or disk."),
    "versions": ("ventifs.cli.versions.list_versions", "versions", "List versions."),
    "ls": ("ventifs.cli.versions.browse", "ls", "List a directory of a version."),
    "cat": ("ventifs.cli.versions.browse", "cat", "Print a file of a version."),
    "log": ("ventifs.cli.versions.log", "log", "Show the versions in which a path changed."),
    "diff": ("ventifs.cli.versions.diff", "diff", "Compare two versions."),
    "find": ("ventifs.cli.versions.diff", "find", "Find paths in a version."),
    "du": ("ventifs.cli.versions.browse", "du", "Sum up a directory of a version."),
    "restore": ("ventifs.cli.restoring.restore", "restore", "Bring a version back."),
    "export": ("ventifs.cli.restoring.export", "export", "Write a version as a tar stream."),
    "copy": ("ventifs.cli.archiving.copy", "copy", "Copy versions into another store."),
    "9p": ("ventifs.cli.serving.ninep", "ninep", "Look at and copy from any 9P server."),
    "forget": ("ventifs.cli.versions.forget", "forget", "Remove versions from the catalog."),
    "undelete": ("ventifs.cli.versions.undelete", "undelete", "Bring forgotten versions back."),
    "hold": ("ventifs.cli.versions.hold", "hold", "Keep versions from being forgotten."),
    "release": ("ventifs.cli.versions.hold", "release", "End what 'hold' began."),
    "rename": (
        "ventifs.cli.versions.rename",
        "rename",
        "Give all versions of a name another name.",
    ),
    "tag": ("ventifs.cli.versions.notes", "tag", "Add and remove tags of versions."),
    "comment": ("ventifs.cli.versions.notes", "comment", "Replace the comment of a version."),
    "serve": ("ventifs.cli.serving.serve", "serve", "Serve versions and directories over 9P."),
    "servers": ("ventifs.cli.serving.servers", "servers", "Show what running servers do."),
    "mount": ("ventifs.cli.serving.mount", "mount", "Mount a version from a 9P server."),
    "reclaim": (
        "ventifs.cli.upkeep.reclaim",
        "reclaim",
        "Free the space of what no version needs.",
    ),
    "stats": ("ventifs.cli.upkeep.stats", "stats", "Show what the store holds and saves."),
    "check": ("ventifs.cli.upkeep.check", "check", "Verify the store; mend it with --repair."),
    "rebuild-index": (
        "ventifs.cli.upkeep.check",
        "rebuild_index",
        "Make index and catalog anew from the arenas alone.",
    ),
    "upgrade": (
        "ventifs.cli.upkeep.upgrade",
        "upgrade",
        "Bring a store of older programs up to date.",
    ),
}


_FAILED, _BROKEN_PIPE = 1, 141
_GARBAGE_THRESHOLD = 200_000  # objects; Python's 700 is for programs that leave cycles behind


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches  # only needed when something is wrong

            close = get_close_matches(args[0], COMMANDS, 3)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        found = super().resolve_command(ctx, args)
        interruption.begin()  # its module is imported: from here on it may have to clean up
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ventifs")
def ventifs() -> None:
    """Archive guest file systems, content-addressed and deduplicated.

    Commands on a store work on the one named by --store, else by $VENTIFS_STORE, else on the one
    in the user's data directory.
    """


def _one_line(error: BaseException, meta: dict[str, Any]) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{printable(os.fsdecode(error.filename))}: "
        text = f"{name}{error.strerror.lower()}"
    store = meta.get("store")
    if store is not None and str(store) not in text and printable(store) not in text:
        text += f" (store {printable(store)})"
    return f"ventifs: {text}"


def _start_log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(LogLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _run(output: Output) -> tuple[int, bool]:
    """Run the command; return its exit code, and whether the reason of a failure was printed."""
    try:
        return _run_command(output)
    except KeyboardInterrupt:
        return _interrupted(output, SIGINT), True
    except Terminated:
        return _interrupted(output, SIGTERM), True


def _interrupted(output: Output, number: Signals) -> int:
    output.discard()
    echo(interruption.message(number), err=True)
    return EXIT_CODES[number]


def _run_command(output: Output) -> tuple[int, bool]:
    """As `_run`, but raises the exceptions of signals; none arrives after the command's end."""
    meta: dict[str, Any] = {}
    try:
        with ventifs.make_context("ventifs", sys.argv[1:]) as context:
            meta = context.meta
            code = ventifs.invoke(context) or 0
        interruption.end()
        return code, False
    except (KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:
        interruption.end()
        if isinstance(error, click.Abort):  # Ctrl-C, or Ctrl-D, at a question
            raise KeyboardInterrupt from None
        if output.stopped:  # the cause of this error, whatever its type is by now
            return 0, False
        return _failed(error, meta)


def _failed(error: BaseException, meta: dict[str, Any]) -> tuple[int, bool]:
    """Print why a command failed; returns what `_run` does."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code, False
        case click.ClickException():
            error.message = one_line(error.message)  # type: ignore[misc]  # it repeats arguments
            error.show()
            return error.exit_code, True
        case VentifsError() | OSError():
            echo(_one_line(error, meta), err=True)
            return _FAILED, True
    raise error


def run() -> NoReturn:
    """Run the command line, and exit. Signals are handled already: see `interruption`."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    output = take_over()
    _start_log()
    code, said = _run(output)
    _end(code, output, said=said)


def _end(code: int, output: Output, *, said: bool) -> NoReturn:
    """End the process at once: to shut the interpreter down is much of the time of short commands.

    A failed output never hides another failure: it sets the exit code only where that is 0. For the
    time saved see docs/performance.md.
    """
    interruption.end()  # a signal ends a flush that waits for a reader
    sys.stdout.flush()
    failure = output.failure
    if isinstance(failure, BrokenPipeError):  # no message: its reader wanted no more
        code = code or _BROKEN_PIPE
    elif failure is not None:
        if not said:
            reason = os.strerror(failure.errno or 0).lower()
            echo(f"ventifs: standard output: {reason}", err=True)
        code = code or _FAILED
    sys.stderr.flush()
    os._exit(code)

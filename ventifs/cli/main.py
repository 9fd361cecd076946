"""The `ventifs` command: finds the subcommand, and turns every failure into one line.

Subcommands live in modules that are imported only when they are run, so that `ventifs --help`
answers at once. Exit codes: 0 done; 1 failed, or a check found something; 2 wrong usage; 3 done,
but not everything; 130 and 143 interrupted by SIGINT and SIGTERM.
"""

import gc
import importlib
import io
import logging
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import click

from ventifs import __version__
from ventifs.cli.output import LogLine, echo
from ventifs.errors import VentifsError
from ventifs.text import UNENCODABLE, PrintableStream, escaping, one_line, printable

# name: (module, attribute, help in a line); a test compares the lines with the commands' own
COMMANDS = {
    "init": ("ventifs.cli.store", "init", "Make a new, empty store."),
    "archive": ("ventifs.cli.archive", "archive", "Archive a directory, tar or disk."),
    "versions": ("ventifs.cli.versions", "versions", "List versions."),
    "ls": ("ventifs.cli.look", "ls", "List a directory of a version."),
    "cat": ("ventifs.cli.look", "cat", "Print a file of a version."),
    "log": ("ventifs.cli.log", "log", "Show the versions in which a path changed."),
    "diff": ("ventifs.cli.diff", "diff", "Compare two versions."),
    "find": ("ventifs.cli.diff", "find", "Find paths in a version."),
    "du": ("ventifs.cli.look", "du", "Sum up a directory of a version."),
    "restore": ("ventifs.cli.restore", "restore", "Bring a version back."),
    "export": ("ventifs.cli.export", "export", "Write a version as a tar stream."),
    "copy": ("ventifs.cli.copy", "copy", "Copy a version into another store."),
    "9p": ("ventifs.cli.ninep", "ninep", "Look at and copy from any 9P server."),
    "forget": ("ventifs.cli.forget", "forget", "Remove versions from the catalog."),
    "serve": ("ventifs.cli.serve", "serve", "Serve versions over 9P."),
    "servers": ("ventifs.cli.servers", "servers", "Show what running servers do."),
    "mount": ("ventifs.cli.mount", "mount", "Mount a version from a 9P server."),
    "stats": ("ventifs.cli.store", "stats", "Show what the store holds and saves."),
    "check": ("ventifs.cli.check", "check", "Verify the store; mend it with --repair."),
    "rebuild-index": (
        "ventifs.cli.check",
        "rebuild_index",
        "Make index and catalog anew from the arenas alone.",
    ),
}


_GARBAGE_THRESHOLD = 200_000  # objects; by default 700, for programs that leave cycles behind


class _OutputFailed(VentifsError):
    """Standard output takes no more."""


class _Output(io.FileIO):
    """Standard output, whose failures name it, so that nobody looks for them in the store."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise _OutputFailed(f"standard output: {reason}") from None


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
        return super().resolve_command(ctx, args)

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


class _Terminated(BaseException):
    """SIGTERM arrived."""


def _on_terminate(_: int, __: FrameType | None) -> None:
    raise _Terminated


def _stand_in_for_closed_streams() -> None:
    """No file of a store may get the number of a standard stream, nor any of them be None."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number there is
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = escaping(sys.stderr)
    if sys.stdout is None or isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = PrintableStream(
            io.BufferedWriter(_Output(1, "wb", closefd=False)),
            encoding=sys.stdout.encoding if sys.stdout else "utf-8",
            errors=UNENCODABLE,
            line_buffering=os.isatty(1),
        )


def _one_line(error: BaseException, meta: dict[str, Any]) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{printable(os.fsdecode(error.filename))}: "
        text = f"{name}{error.strerror.lower()}"
    store = meta.get("store")
    if store is not None and not isinstance(error, _OutputFailed):
        named = str(store) in text or printable(store) in text
        text += "" if named else f" (store {printable(store)})"
    return f"ventifs: {text}"


def _start_log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(LogLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main() -> None:
    """Run the command line, and exit."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    signal.signal(signal.SIGTERM, _on_terminate)
    _stand_in_for_closed_streams()
    _start_log()
    meta: dict[str, Any] = {}
    try:
        with ventifs.make_context("ventifs", sys.argv[1:]) as context:
            meta = context.meta
            code = ventifs.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.ClickException as error:
        error.message = one_line(error.message)  # type: ignore[misc]  # it repeats arguments
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        echo("ventifs: interrupted; nothing committed was lost", err=True)
        code = 130
    except _Terminated:
        echo("ventifs: terminated; nothing committed was lost", err=True)
        code = 143
    except BrokenPipeError:
        _drop_output()  # whoever read it has gone
        code = 0
    except _OutputFailed as error:
        echo(_one_line(error, meta), err=True)
        _drop_output()
        code = 1
    except (VentifsError, OSError) as error:
        echo(_one_line(error, meta), err=True)
        code = 1
    _end(code)


def _end(code: int | None) -> NoReturn:
    """End at once: to take the interpreter down takes 20 ms, a fifth of what short commands do."""
    code = code or 0
    try:
        sys.stdout.flush()  # what was written before an error
    except BrokenPipeError:
        pass
    except _OutputFailed as error:
        if not code:  # else something was told already
            echo(f"ventifs: {error}", err=True)
            code = 1
    with suppress(OSError, ValueError):  # closed, or nobody reads it
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

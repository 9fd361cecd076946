"""Every command with an output that is not taken: its exit code, and that its work is done.

The commands are those of the group itself, so none can be forgotten.
"""

import fcntl
import os
import signal
import subprocess
import tarfile
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from tests.support import forked
from tests.support.commanding import run
from tests.support.damage import flip
from tests.support.patience import wait_until
from tests.support.serve import PATIENCE_S, VENTIFS, Serve, environment
from tests.support.trees import noise
from ventifs.cli.program import COMMANDS, ventifs
from ventifs.cli.streams import PRINTERS

FULL = b"ventifs: standard output: no space left on device\n"
CLOSED = b"ventifs: standard output: bad file descriptor\n"


def _leaves(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _leaves(command, (*words, name))
        else:
            yield " ".join((*words, name))


# What each is run with; `{new}` is another path every time, `{address}` a server's, and `{how}` the
# way in which the output fails.
WORDS = {
    "init": "--store {new}",
    "archive": "tree --name {new}",
    "versions": "",
    "ls": "-R t",
    "cat": "t:/big",
    "log": "t:/big",
    "diff": "t@~1 t",
    "find": "t *",
    "du": "t",
    "restore": "t {new}",
    "export": "t",
    "copy": "t --to other",
    "9p ls": "{address} /",
    "9p cat": "{address} /t/latest/big",
    "9p stat": "{address} /",
    "9p get": "{address} /t/latest {new}",
    "forget": "--keep-last 9",
    "undelete": "old-{how}@latest",
    "hold": "t@latest",
    "release": "held-{how}@latest",
    "rename": "named-{how} {new}",
    "tag": "held-{how}@latest --add a",
    "comment": "held-{how}@latest text",
    "servers": "",
    "mount": "{address} t@latest /mnt --print",
    "reclaim": "--grace 1d",
    "stats": "",
    "upgrade": "",
    "check": "",
    "rebuild-index": "",
}
LASTING = {"serve"}  # does not end by itself: see its own test


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store `s` with two versions, and an empty one, `other`."""
    home = tmp_path_factory.mktemp("home")
    (home / "tree").mkdir()
    (home / "tree" / "big").write_bytes(noise(300_000))
    for words in ("init", "archive tree --name t"):
        run(home, *words.split(), "--store", "s")
    (home / "tree" / "more").write_bytes(b"more")
    run(home, "archive", "tree", "--name", "t", "--store", "s")
    run(home, "init", "--store", "other")
    for how in ("broken", "full"):
        for name in (f"old-{how}", f"held-{how}", f"named-{how}"):
            run(home, "copy", "t", "--name", name, "--store", "s", "--to", "other")
            run(home, "copy", name, "--store", "other", "--to", "s")
        run(home, "forget", f"old-{how}@latest", "--force", "--store", "s")
        run(home, "hold", f"held-{how}@latest", "--store", "s")
    return home


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with Serve(home, f"unix://{home}/run/9p.sock", "--store", "s") as server:
        yield server.addresses[0]


class Runner:
    """Runs commands whose output fails in some way."""

    def __init__(self, home: Path, address: str) -> None:
        self._home = home
        self._address = address

    def __call__(
        self, name: str, how: str, words: str = ""
    ) -> "subprocess.CompletedProcess[bytes]":
        new = f"new{len(os.listdir(self._home))}"
        (self._home / f"{new}.was").touch()
        text = (words or WORDS[name]).format(new=new, address=self._address, how=how)
        done = failing(self._home, how, *name.split(), *text.split())
        self.made = self._home / new
        return done


@contextmanager
def failing_stream(how: str) -> Iterator[int]:
    """A descriptor to write to that is `broken` or `full`."""
    read, write = os.pipe()
    os.close(read)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        yield write if how == "broken" else full
    finally:
        os.close(write)
        os.close(full)


def failing(home: Path, how: str, *words: str) -> "subprocess.CompletedProcess[bytes]":
    """Run with a standard output that is `broken`, `full` or `closed`."""
    variables = {**environment(home), "VENTIFS_STORE": str(home / "s")}
    if how == "closed":  # what Python finds when it starts matters
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *VENTIFS, *words],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            timeout=PATIENCE_S,
            env=variables,
        )
    else:
        with failing_stream(how) as stream:
            done = forked.run(words, env=variables, cwd=home, timeout_s=PATIENCE_S, stdout=stream)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    return done


@pytest.fixture
def runner(home: Path, address: str) -> Runner:
    return Runner(home, address)


def test_all_commands_are_tried() -> None:
    leaves = set(_leaves(ventifs))
    assert leaves == WORDS.keys() | LASTING
    assert leaves >= PRINTERS
    assert {words.split()[0] for words in leaves} == COMMANDS.keys()


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("how", ["broken", "full"])
def test_a_failing_output_is_never_success(runner: Runner, name: str, how: str) -> None:
    _check(runner(name, how), how)


@pytest.mark.parametrize("name", ["cat", "archive", "9p cat", "check"])
def test_a_closed_output_is_never_success(runner: Runner, name: str) -> None:
    _check(runner(name, "closed"), "closed")


def _check(done: "subprocess.CompletedProcess[bytes]", how: str) -> None:
    code, said = {"broken": (141, b""), "full": (1, FULL), "closed": (1, CLOSED)}[how]
    assert done.returncode == code, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith(b"ventifs: ")] == (
        said.splitlines()
    )


@pytest.mark.parametrize("name", ["", "cat", "9p get"])
@pytest.mark.parametrize("words", ["--help", "--no-such-option"])
def test_help_and_usage_errors_have_their_codes(runner: Runner, name: str, words: str) -> None:
    assert runner(name, "broken", words).returncode == (141 if words == "--help" else 2)


@pytest.mark.parametrize("how", ["broken", "full", "closed"])
def test_the_work_is_done_whatever_takes_its_output(runner: Runner, home: Path, how: str) -> None:
    runner("restore", how)
    assert (runner.made / "big").read_bytes() == noise(300_000)
    runner("9p get", how)
    assert (runner.made / "big").read_bytes() == noise(300_000)
    runner("init", how)
    run(home, "archive", "tree", "--name", "again", "--store", runner.made)
    runner("archive", how)
    run(home, "cat", f"{runner.made.name}:/big", "--store", "s")


@pytest.mark.parametrize("how", ["broken", "full", "closed"])
@pytest.mark.parametrize("words", ["", "--json"])
def test_a_check_that_cannot_print_ends_with_what_it_found(
    tmp_path: Path, how: str, words: str
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "big").write_bytes(noise(300_000))
    run(tmp_path, "init", "--store", "s")
    run(tmp_path, "archive", "tree", "--name", "t", "--store", "s")
    [arena] = [path for path in (tmp_path / "s").rglob("*.arena") if path.stat().st_size > 300_000]
    flip(arena, 100_000)
    assert failing(tmp_path, how, "check", "--read-data", *words.split()).returncode == 1
    assert failing(tmp_path, how, "restore", "t", "back", *words.split()).returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="devices need root")
@pytest.mark.parametrize("how", ["broken", "full", "closed"])
def test_what_is_done_in_part_keeps_its_code(
    runner: Runner, home: Path, tmp_path: Path, how: str
) -> None:
    os.mknod(tmp_path / "device", 0o020600, os.makedev(1, 3))
    run(home, "archive", tmp_path, "--name", "odd", "--store", "s")
    assert runner("9p get", how, "{address} /odd/latest {new}").returncode == 3


@pytest.mark.parametrize("how", ["broken", "full", "closed"])
@pytest.mark.parametrize("words", ["", " --json"])
def test_an_archive_with_troubles_keeps_its_code(
    runner: Runner, home: Path, how: str, words: str
) -> None:
    with tarfile.open(home / "odd.tar", "w") as tar:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.LNKTYPE, "nothing"
        tar.addfile(member)
    done = runner("archive", how, "odd.tar --name odd-tar" + words)
    assert done.returncode == 3
    assert done.stderr.splitlines().count(
        b"link: not archived: a hard link to what is not in the archive, or left out"
    ) == (not words)


def test_an_output_that_does_not_block_is_waited_for(home: Path) -> None:
    """As what starts a command may have made it for itself."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with subprocess.Popen(
        [*VENTIFS, "cat", "t:/big"],
        cwd=home,
        stdout=write,
        stderr=subprocess.PIPE,
        env={**environment(home), "VENTIFS_STORE": "s"},
    ) as command:
        os.close(write)
        with open(read, "rb") as pipe:
            assert pipe.read() == noise(300_000)
        assert command.wait(PATIENCE_S) == 0


def test_a_reader_that_goes_midway_is_no_error(runner: Runner, home: Path) -> None:
    """`ventifs cat v:/f | head -c 10`, and a shell that asks for the code of the first."""
    for words in ("cat t:/big", "export t", "9p cat {address} /t/latest/big"):
        text = words.format(address=runner._address)
        pipe = subprocess.Popen(
            [*VENTIFS, *text.split()],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment(home), "VENTIFS_STORE": "s"},
        )
        with pipe:
            assert pipe.stdout is not None
            assert pipe.stderr is not None
            assert len(os.read(pipe.stdout.fileno(), 10)) == 10
            pipe.stdout.close()
            assert pipe.stderr.read() == b""
        assert pipe.returncode == 141


@pytest.mark.parametrize(
    "words",
    [
        "restore t {new}",
        "nonsense",
        "ls none",
        "archive tree --name u",
        "check",
        "9p get {address} /t/latest {new}",
    ],
)
@pytest.mark.parametrize("how", ["broken", "full", "closed"])
def test_a_failing_standard_error_changes_nothing(
    runner: Runner, home: Path, words: str, how: str
) -> None:
    new = f"err{len(os.listdir(home))}"
    (home / f"{new}.was").touch()
    text = words.format(new=new, address=runner._address)
    variables = {**environment(home), "VENTIFS_STORE": "s"}
    if how == "closed":
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" 2>&-', "sh", *VENTIFS, *text.split()],
            cwd=home,
            check=False,
            env=variables,
            stdout=subprocess.PIPE,
            timeout=PATIENCE_S,
        )
    else:
        with failing_stream(how) as stream:
            done = forked.run(
                text.split(), env=variables, cwd=home, timeout_s=PATIENCE_S, stderr=stream
            )
    assert done.returncode == {"nonsense": 2, "ls none": 1}.get(words, 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_reader_that_does_not_read_holds_no_interrupted_command_up(
    home: Path, number: signal.Signals, code: int
) -> None:
    read, write = os.pipe()
    command = subprocess.Popen(
        [*VENTIFS, "cat", "t:/big"],
        cwd=home,
        stdout=write,
        stderr=subprocess.PIPE,
        env={**environment(home), "VENTIFS_STORE": "s"},
    )
    os.close(write)
    with command:
        try:
            wait_until(
                lambda: (
                    fcntl.ioctl(read, termios.FIONREAD, bytes(4)) != bytes(4)
                ),  # more never fits
                unless=lambda: command.poll() is not None and "it ended before it was interrupted",
            )
            command.send_signal(number)
            assert command.wait(PATIENCE_S) == code
            assert command.stderr is not None
            assert b"nothing committed was lost" in command.stderr.read()
        finally:
            command.kill()  # or leaving it would wait for ever
    os.close(read)


def _listed(home: Path, socket: Path) -> bytes:
    return subprocess.run(
        [*VENTIFS, "9p", "ls", f"unix://{socket}"],
        check=False,
        env=environment(home),
        capture_output=True,
        timeout=PATIENCE_S,
    ).stdout


def test_a_server_goes_on_when_its_output_is_closed(home: Path) -> None:
    """Its first lines are all it prints; what they go to need not outlive them."""
    socket = home / "run" / "second.sock"
    log = home / "second.log"
    with log.open("wb") as errors, failing_stream("broken") as broken:
        server = subprocess.Popen(
            [*VENTIFS, "serve", f"unix://{socket}"],
            cwd=home,
            stdout=broken,
            stderr=errors,
            env={**environment(home), "VENTIFS_STORE": "s"},
        )
    try:
        wait_until(socket.exists, unless=lambda: server.poll() is not None and log.read_text())
        # It is bound before it listens.
        wait_until(
            lambda: b"t\n" in _listed(home, socket),
            unless=lambda: server.poll() is not None and log.read_text(),
        )
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 141
    finally:
        server.kill()
        server.wait()

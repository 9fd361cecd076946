"""Debian's diod tools, a client by other people's hands, against the server."""

import subprocess

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.segment import HOST, Segment, missing_programs
from tests.support.servers import PORT
from tests.support.serving import Exported

pytestmark = pytest.mark.slow
_SERVER = f"{HOST}:{PORT}"


@pytest.fixture(autouse=True)
def _tools() -> None:
    if missing := missing_programs(["diodls", "diodcat"]):
        pytest.skip(f"needs the Debian package diod (missing: {' '.join(missing)})")


def said(network: Segment, *words: str) -> bytes:
    """What a tool prints."""
    done = network.run(*words, check=False, capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    output: bytes = done.stdout
    return output


def test_diodcat_brings_files(network: Segment, exported: Exported) -> None:
    for path in ("etc/debian_version", "usr/bin/git"):
        read = said(network, "diodcat", "-s", _SERVER, "-a", exported.versions[0], path)
        assert read == (exported.roots[0] / path).read_bytes()


def test_diodls_lists_modes_owners_sizes_and_times(network: Segment, exported: Exported) -> None:
    aname = f"{exported.versions[0]}:/var/odd"
    lines = said(network, "diodls", "-l", "-s", _SERVER, "-a", aname).decode(errors="replace")
    by_name = {line.rpartition(" ")[2]: line.split() for line in lines.splitlines() if line}
    on_host = subprocess.run(
        ["ls", "-ln", exported.roots[0] / "var" / "odd" / "git"],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()
    mode, links, *_ = by_name["git"]
    assert (mode.rstrip("."), links) == (on_host[0].rstrip(".+"), on_host[1])
    assert on_host[4] in by_name["git"]
    # It knows no types but directories, and neither reads nor marks anything else.
    assert by_name["fifo"][0][1:10] == "rw-r-----"
    assert by_name["null"][0][1:10] == "rw-rw-rw-"

"""`Archive.serve`: a server in a thread beside the archive, and its end."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import ventifs
from tests.support.patience import PATIENCE_S
from ventifs.net.address import parse_address
from ventifs.ninep.client.client import Client


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[ventifs.Archive]:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"what is there")
    ventifs.init(tmp_path / "store")
    with ventifs.open(tmp_path / "store", "write") as archive:
        archive.add(tmp_path / "tree", "web01")
        yield archive


def _read(address: str, aname: bytes, path: bytes) -> bytes:
    async def main() -> bytes:
        with trio.fail_after(PATIENCE_S):
            async with Client.connect(parse_address(address), aname=aname) as client:
                return await client.read(path)

    return trio.run(main)


def _threads() -> set[str]:
    return {each.name for each in threading.enumerate() if not each.name.startswith("Trio")}


def test_versions_are_read_over_9p_while_the_archive_goes_on(
    archive: ventifs.Archive, tmp_path: Path
) -> None:
    before = _threads()
    with archive.serve(f"unix://{tmp_path}/sock", "tcp://127.0.0.1:0") as server:
        unix, tcp = server.addresses
        assert unix == f"unix://{tmp_path}/sock"
        assert _read(unix, b"web01@latest", b"file") == b"what is there"
        (tmp_path / "tree" / "file").write_bytes(b"what is new")
        archive.add(tmp_path / "tree", "web02")
        assert (archive["web02"] / "file").read_bytes() == b"what is new"
        assert tcp.startswith("tcp://127.0.0.1:")
    assert not (tmp_path / "sock").exists()
    assert _threads() == before
    assert (archive["web01"] / "file").read_bytes() == b"what is there"
    server.close()


def test_rules_hold(archive: ventifs.Archive, tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/sock"
    with (
        archive.serve(address, allow=["uid:12345 web*"]),
        pytest.raises(ventifs.VentifsError, match="connection"),
    ):
        _read(address, b"web01@latest", b"file")


def test_what_cannot_be_served_starts_nothing(archive: ventifs.Archive, tmp_path: Path) -> None:
    before = _threads()
    with pytest.raises(ValueError, match="an address"):
        archive.serve()
    with pytest.raises(ValueError, match="mode"):
        archive.serve(f"unix://{tmp_path}/sock", squash="root")
    for options in ({"access": "Mode"}, {"access": "mode", "squash": "nobody"}):
        with pytest.raises(ValueError, match="access"):
            archive.serve(f"unix://{tmp_path}/sock", **options)  # type: ignore[arg-type]
    with pytest.raises(ventifs.VentifsError):
        archive.serve(f"unix://{tmp_path}/tree/file/sock")
    with pytest.raises(ventifs.VentifsError):
        archive.serve(f"unix://{tmp_path}/sock", allow=["nonsense"])
    with archive.serve(f"unix://{tmp_path}/sock"), pytest.raises(ventifs.VentifsError):
        archive.serve(f"unix://{tmp_path}/sock")
    assert _threads() == before
    archive.close()
    with pytest.raises(ventifs.VentifsError, match="closed"):
        archive.serve(f"unix://{tmp_path}/sock")


def test_an_empty_list_of_rules_lets_nobody_in(archive: ventifs.Archive, tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/sock"
    with archive.serve(address, allow=[]), pytest.raises(ventifs.VentifsError, match="connection"):
        _read(address, b"web01@latest", b"file")


def test_servers_end_in_any_order_and_leave_the_process_as_it_was(
    archive: ventifs.Archive, tmp_path: Path
) -> None:
    before_s = sys.getswitchinterval()
    first = archive.serve(f"unix://{tmp_path}/1")
    second = archive.serve(f"unix://{tmp_path}/2")
    archive.close()
    assert _read(f"unix://{tmp_path}/1", b"web01@latest", b"file") == b"what is there"
    first.close()
    first.close()
    assert sys.getswitchinterval() != before_s
    assert _read(f"unix://{tmp_path}/2", b"web01@latest", b"file") == b"what is there"
    second.close()
    assert sys.getswitchinterval() == before_s


def test_what_ends_a_server_is_told_when_it_is_closed(
    archive: ventifs.Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: object, *_: object) -> None:
        raise RuntimeError("broken on purpose")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ventifs.serving.settings.LocalSessions._filesystem_for", broken)
        server = archive.serve(f"unix://{tmp_path}/sock")
        with pytest.raises(ventifs.VentifsError):
            _read(f"unix://{tmp_path}/sock", b"web01@latest", b"file")
        with pytest.raises(RuntimeError, match="on purpose"):
            server.close()
    assert "a server ended" in caplog.text
    server.close()

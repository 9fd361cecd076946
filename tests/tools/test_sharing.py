"""What the processes of a test run share: it is made once, and removed by the last."""

from pathlib import Path

from tests.support.conversing import share
from tests.support.processes import Peer


def test_it_is_made_once_and_goes_with_the_last(tmp_path: Path) -> None:
    first, second = Peer(share, tmp_path), Peer(share, tmp_path)
    first.tell("enter")
    second.tell("enter")  # at the same time, while the first has it
    assert {first.heard(), second.heard()} == {"made"}
    assert (tmp_path / "thing" / "file").read_text() == "x"
    assert first.ask("leave") is True
    assert second.ask("leave") is False
    assert second.ask("enter") == "made"
    assert (tmp_path / "thing" / "file").read_text() == "x"
    first.end()
    second.kill()

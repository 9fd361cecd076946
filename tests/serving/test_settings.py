"""A store, served: what a process keeps for the kinds of peers it has seen."""

from pathlib import Path

from tests.support.sessions import PEER
from tests.support.stores import new_store
from ventifs.cli.serving.front_end import local_sessions
from ventifs.net.allow_list import Exports
from ventifs.serving.settings import _VIEWS_MAX, Settings
from ventifs.vfs.access.guard import GuardedFilesystem


def test_peers_of_a_kind_share_a_view_and_kinds_are_forgotten(tmp_path: Path) -> None:
    settings = Settings(store=str(new_store(tmp_path / "store")), access="mode")
    often = Exports(("web*",))
    with local_sessions(settings) as sessions:
        made = sessions._filesystem_for(PEER, often)
        for number in range(2 * _VIEWS_MAX):
            sessions._filesystem_for(PEER, Exports((f"guest{number}",)))
            assert sessions._filesystem_for(PEER, often) is made
        assert len(sessions._views) == _VIEWS_MAX
        nobody = sessions._filesystem_for(PEER, Exports(("web*",), as_nobody=True))
        assert nobody is not made
        assert isinstance(made, GuardedFilesystem)
        assert isinstance(nobody, GuardedFilesystem)
        assert nobody.accounts is made.accounts

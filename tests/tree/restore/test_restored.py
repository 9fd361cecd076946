"""What a restore lists is bounded, and nothing goes uncounted."""

import pytest

from ventifs.tree.restore import restored
from ventifs.tree.restore.file_maker import Consequence, RestoreTrouble
from ventifs.tree.restore.restored import Restored


def test_each_kind_of_trouble_has_its_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restored, "TROUBLES_MAX", 2)
    done = Restored()
    for number in range(3):
        path = b"%d" % number
        done.add_trouble(path, RestoreTrouble(0, Consequence.FAILED, "broken"), "; and more")
        done.add_trouble(path, RestoreTrouble(0, Consequence.LESS, "its owner"))
        done.add_trouble(path, RestoreTrouble(0, Consequence.LEFT_OUT, "a device"))
        done.add_replaced(path, "a link")
    assert done.failed == [(b"0", "broken; and more"), (b"1", "broken; and more")]
    assert done.left == [(b"0", "its owner"), (b"0", "a device")]
    assert done.replaced == [(b"0", "a link"), (b"1", "a link")]
    assert done.unlisted == 1 + 4 + 1

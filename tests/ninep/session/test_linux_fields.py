"""Fields of 9P2000.L on machines whose numbers differ from those of the protocol."""

import os

import pytest

from ventifs.ninep.session import linux_fields
from ventifs.ninep.session.linux_fields import create_flags, open_flags


def test_flags_have_the_numbers_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = dict(linux_fields.OPEN_FLAGS) | {0o200000: 0o40000, 0o4000000: 0o4010000}
    sent = 0o2 | 0o1000 | 0o2000 | 0o40000 | 0o200000 | 0o4010000
    assert open_flags(sent) == os.O_RDWR | os.O_TRUNC | os.O_APPEND | os.O_DIRECTORY | os.O_SYNC
    monkeypatch.setattr(linux_fields, "OPEN_FLAGS", arm)
    monkeypatch.setattr(linux_fields, "_SAME", False)
    assert open_flags(sent) == 0o2 | 0o1000 | 0o2000 | 0o40000 | 0o4010000
    assert open_flags(0o10000) == 0o10000
    assert open_flags(0) == os.O_RDONLY
    assert create_flags(0o201) == os.O_WRONLY | os.O_CREAT | os.O_EXCL

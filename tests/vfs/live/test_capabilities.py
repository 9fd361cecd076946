"""What a process of a live export may still do after it has dropped its privileges."""

import os
from pathlib import Path

import pytest

from tests.support import privileges
from tests.support.processes import run
from ventifs.vfs.live import capabilities

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to drop")


@needs_root
@pytest.mark.parametrize("root", [True, False])
def test_all_but_a_few_capabilities_are_dropped_for_good(root: bool) -> None:
    kept = capabilities.SERVER | (capabilities.ROOT if root else 0)
    assert run(privileges.drop_as_root, root, kept) == 0


def test_capabilities_have_the_kernels_numbers() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("needs the kernel's headers (linux-libc-dev)")
    numbers = {
        fields[1].removeprefix("CAP_"): int(fields[2])
        for fields in map(str.split, header.read_text().splitlines())
        if len(fields) == 3 and fields[1].startswith("CAP_") and fields[2].isdigit()
    }
    ours = {name: value for name, value in vars(capabilities).items() if name in numbers}
    assert len(ours) == 11
    assert ours == {name: 1 << numbers[name] for name in ours}


def test_guests_root_gets_no_more_than_files_need() -> None:
    """Resources, immutable files and the network stay out of reach."""
    allowed = capabilities.SERVER | capabilities.ROOT
    for number in (9, 12, 14, 16, 17, 19, 22, 23, 24, 25, 28, 33):
        assert not allowed >> number & 1


@needs_root
def test_a_server_of_root_serves_users_after_dropping() -> None:
    with privileges.open_directory() as top:
        assert run(privileges.drop_and_act, str(top)) == 0


@needs_root
def test_a_server_of_a_user_stays_that_user() -> None:
    with privileges.open_directory() as top:
        assert run(privileges.drop_as_a_user, str(top)) == 0


@needs_root
@pytest.mark.parametrize("lacking", [capabilities.SETUID, capabilities.SETGID])
def test_a_server_of_root_that_cannot_act_as_users_has_no_rights_beyond_its_own(
    lacking: int,
) -> None:
    """As in a container: else every user of a guest would have them."""
    with privileges.open_directory() as top:
        assert run(privileges.drop_without, lacking, str(top)) == 0


@needs_root
def test_privileges_are_not_dropped_beside_other_threads() -> None:
    assert run(privileges.drop_beside_a_thread) == 0

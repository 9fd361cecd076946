"""Settings for every test: Hypothesis is derandomised in CI.

No example has a deadline, and none is refused as slow to make: that is the machine's affair.
"""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from ventifs.store import reserve

settings.register_profile(
    "local", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Tests start thousands of processes, each of which would compile the whole program again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A test makes many stores, and pytest keeps them for a while: their reserves are small.
reserve.DEFAULT_MAX = 64 << 10
os.environ["VENTIFS_RESERVE"] = "64KiB"

# Shells start what runs in the background with it ignored, and commands under test inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_GROUPS = os.getgroups()


@pytest.fixture(autouse=True)
def as_the_process_itself() -> Iterator[None]:
    """A live tree leaves the thread as its last user; the next test is the process's own again."""
    yield
    if os.geteuid() == 0 and "ventifs.vfs.live.syscalls" in sys.modules:
        from ventifs.vfs.live import syscalls

        permitted = syscalls.capabilities()[1]
        syscalls.set_capabilities(permitted, permitted)
        syscalls.set_groups(tuple(_GROUPS))
        syscalls.set_fsgid(0)
        syscalls.set_fsuid(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow modules first where processes share the tests: none is to wait for others at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Show a failure at once as well: a run that is cut short still says what failed."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext}", flush=True)

"""Runs a function in a thread of its own, whose credentials end with it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def in_thread(work: Callable[[], _T]) -> _T:
    """What `work` returns or raises in a new thread, which has ended then."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()

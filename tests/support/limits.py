"""A disk that fills up, for real: the kernel's own limit on file size."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def file_size_limit(size_max: int) -> Iterator[None]:
    """No file can grow beyond `size_max` bytes: the kernel cuts writes short, then fails them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_max, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

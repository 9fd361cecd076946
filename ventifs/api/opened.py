"""What every method of an archive checks first."""

from ventifs.errors import VentifsError
from ventifs.store import Store


def check_open(store: Store) -> None:
    """See that an archive is open.

    Raises:
        VentifsError: it was closed.
    """
    if store.closed:
        raise VentifsError(f"{store.path}: the archive is closed")

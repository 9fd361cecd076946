"""What `ventifs restore` does for disks: images in other formats, block devices, progress."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from ventifs.cli.progress import ByteProgress
from ventifs.errors import VentifsError
from ventifs.image.formats.qemu_img import check_convertible, restore_converted
from ventifs.store import Store
from ventifs.text import printable
from ventifs.tree.objects.records import Entry
from ventifs.tree.process_pool import InlinePool, Pool
from ventifs.tree.restore.file_maker import Maker
from ventifs.tree.restore.large_file import FileFailed, ReportBytes, pour_device
from ventifs.tree.restore.restored import Restored


def is_device(target: Path) -> bool:
    """Whether a block device is to be written."""
    try:
        return stat.S_ISBLK(target.stat().st_mode)
    except OSError:
        return False


@contextmanager
def telling(what: str, total: int, *, quiet: bool) -> Iterator[ReportBytes]:
    """Progress towards `total` bytes."""
    done = 0
    with ByteProgress(what, quiet=quiet) as progress:

        def report(more: int) -> None:
            nonlocal done
            done += more
            progress(done, total)

        yield report


def restore_image(
    store: Store,
    pool: Pool | None,
    entry: Entry,
    target: Path,
    kind: str,
    *,
    overwrite: bool,
    quiet: bool,
) -> Restored:
    """Restore a disk as an image of a format.

    Raises:
        VentifsError: it cannot be restored, and nothing of it is left.
        OSError: the same.
    """
    check_convertible(entry, kind)
    if target.name in ("", ".."):
        raise VentifsError(f"{_shown(target)}: is a directory; name a path for the image")
    if not overwrite and os.path.lexists(target):
        raise VentifsError(
            f"{_shown(target)}: is there already; name a path that is not, or use --overwrite"
        )
    named = replace(entry, name=os.fsencode(target.name), link=b"")
    done = Restored(entries=1, size=entry.size)
    with telling("restoring", 2 * entry.size, quiet=quiet) as report:
        try:
            less = restore_converted(
                store,
                pool or InlinePool(Maker(store, overwrite=overwrite).handle),
                named,
                target,
                kind,
                overwrite=overwrite,
                report=report,
            )
        except FileFailed as error:
            raise VentifsError(f"{_shown(target)}: not restored: {error}") from None
    done.left = [(named.name, what) for what in less]
    return done


def restore_device(
    store: Store, pool: Pool | None, entry: Entry, target: Path, *, overwrite: bool, quiet: bool
) -> tuple[Restored, int]:
    """Write a disk onto a block device; also returns how many bytes larger the device is.

    Raises:
        VentifsError: it may not overwrite the device, or not all of the disk is written.
        OSError: the device cannot be opened or written.
    """
    if not overwrite:
        raise VentifsError(
            f"{_shown(target)}: is a block device; --overwrite writes the disk over what it holds"
        )
    with telling("writing", entry.size, quiet=quiet) as report:
        try:
            more = pour_device(
                pool or InlinePool(Maker(store, overwrite=True).handle),
                entry,
                os.fspath(target),
                report,
            )
        except FileFailed as error:
            raise VentifsError(
                f"{_shown(target)}: not all of the disk is written: {error}"
            ) from None
    return Restored(entries=1, size=entry.size), more


def _shown(path: Path) -> str:
    return printable(path)

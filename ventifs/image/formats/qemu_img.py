"""Restores a disk in another format than raw, by QEMU's own qemu-img.

qemu-img reads only files, not pipes. So the disk is first restored raw and sparse, in the staging
directory beside the target. The image that is made there gets its name when it is complete. Where
the kernel has Landlock, qemu-img can open no data outside of that directory.
"""

import os
import re
import shutil
from pathlib import Path

from ventifs.errors import VentifsError
from ventifs.image.confinement import confined
from ventifs.image.confinement.confined import Given
from ventifs.image.disk import ImageError
from ventifs.store import Store
from ventifs.text import printable
from ventifs.tree.objects.records import Entry
from ventifs.tree.process_pool import Pool
from ventifs.tree.restore.destination import Staging
from ventifs.tree.restore.large_file import ReportBytes, make_large, settle
from ventifs.tree.restore.metadata import dress, xattrs_of

SECTOR = 512
# For qemu-img: the format's name, and options that keep the exact size.
_FORMATS = {
    "qcow2": ("qcow2",),
    "vmdk": ("vmdk",),
    "vhd": ("vpc", "-o", "subformat=dynamic,force_size=on"),
    "vhdx": ("vhdx", "-o", "subformat=dynamic"),
}
FORMATS = tuple(_FORMATS)
_SHARE = re.compile(rb"\((\d+\.\d+)/100%\)")


def check_convertible(entry: Entry, kind: str) -> str:
    """The path of qemu-img, if it can convert this disk to this format.

    Raises:
        ImageError: it cannot; the message says what to do.
    """
    if entry.size % SECTOR:
        raise ImageError(
            f"the disk has {entry.size:,} bytes, not whole sectors of {SECTOR}, which is all that "
            f"{kind} can hold: restore it raw"
        )
    program = shutil.which("qemu-img")
    if program is None:
        raise ImageError(
            f"qemu-img, which makes {kind} images, is not installed: install it (Debian's package "
            "is qemu-utils), or restore the disk raw"
        )
    return program


def restore_converted(
    store: Store,
    pool: Pool,
    entry: Entry,
    target: Path,
    kind: str,
    *,
    overwrite: bool,
    report: ReportBytes,
) -> list[str]:
    """Make an image of a disk; returns what of its owner and attributes is left out.

    Args:
        store: where the disk is.
        pool: as for `tree.restore.large_file.make_large`.
        entry: of the disk, with the target's name.
        target: the path of the new image.
        kind: one of `FORMATS`.
        overwrite: whether it replaces an existing file.
        report: is called with bytes of progress; twice the disk's size in all.

    Raises:
        ImageError: qemu-img is missing, or cannot make such an image of this disk.
        VentifsError: qemu-img failed, a worker died, or something is damaged.
        Failed: part of the disk is damaged, or cannot be written.
        OSError: something cannot be written.
    """
    program = check_convertible(entry, kind)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        staging = Staging(directory)
        try:
            make_large(store, pool, entry, staging.fd, -1, overwrite=False, report=report)
            made = b"%s.%s" % (entry.name[:200], kind.encode())
            _convert(program, staging.fd, entry, made, kind, report)
            fd = os.open(made, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging.fd)
            try:
                less = dress(entry, xattrs_of(store, entry), fd)
            finally:
                os.close(fd)
            settle(made, staging.fd, entry.name, directory, overwrite=overwrite)
        finally:
            staging.close()
    finally:
        os.close(directory)
    return less


def _convert(
    program: str, directory: int, entry: Entry, made: bytes, kind: str, report: ReportBytes
) -> None:
    """Run qemu-img on names in an open directory."""
    source, target = (confined.path(directory, name) for name in (entry.name, made))
    command = [program, "convert", "-p", "-f", "raw", "-O", *_FORMATS[kind], source, target]
    done = 0
    # It also runs where there is no Landlock: the source is raw, and refers to no other file.
    process = None
    try:
        process = confined.start(command, Given(within=[directory]), required=False)
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            while shown := os.read(process.stdout.fileno(), 4096):
                for share in _SHARE.findall(shown)[-1:]:
                    upto = int(entry.size * float(share) / 100)
                    report(upto - done)
                    done = upto
            complaint = process.stderr.read()
        process.wait()
    except BaseException:  # Ctrl-C may come at any line; `with process` would wait for its end
        if process is not None:
            process.kill()
            process.wait()
        raise
    if process.returncode:
        text = printable(complaint.strip().splitlines()[-1] if complaint.strip() else b"no reason")
        text = text.removeprefix("qemu-img: ")
        raise VentifsError(f"qemu-img failed: {text}")
    report(entry.size - done)

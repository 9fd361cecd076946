"""What may be given to `Archive.add`, as the source of an archive run."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from ventifs.api.path import as_bytes, given_path
from ventifs.errors import VentifsError
from ventifs.image.formats.choice import TAR, chosen
from ventifs.store.files import readable_errors
from ventifs.text import printable
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.source import Source
from ventifs.tree.process_pool import Pool
from ventifs.tree.tar.tar_source import TarSource

if TYPE_CHECKING:
    from ventifs.api.archive import GivenSource


def source_of(
    source: "GivenSource", options: Options, pool: Pool | None, stack: ExitStack
) -> Source:
    """A source as an archive run takes it.

    Raises:
        VentifsError: a path is neither a directory nor the name of a tar.
        ValueError: an empty path, or options that a source does not have.
        TypeError: it is no source.
    """
    path = given_path(source) if isinstance(source, str | bytes | os.PathLike) else None
    if path is not None:
        with readable_errors(path):
            if path.is_dir():
                return DirectorySource(path, options=options, pool=pool)
    if pool or options.one_file_system or options.exclude_caches:
        raise ValueError("pool, one_file_system and exclude_caches are for directories")
    if path is not None:
        stream = stack.enter_context(_tar(path))
        return TarSource(stream, printable(as_bytes(path.absolute())), exclude=options.exclude)
    if hasattr(source, "read"):
        called = getattr(source, "name", "")  # a number, of a file made from a descriptor
        label = printable(called) if isinstance(called, str | bytes) else ""
        return TarSource(cast(BinaryIO, source), label or "a stream", exclude=options.exclude)
    if not hasattr(source, "archive"):
        raise TypeError(f"{type(source).__name__}: a path, a binary stream or a source is needed")
    if options.exclude:
        raise ValueError("the source has options of its own; give them to it when it is made")
    return cast(Source, source)


def _tar(path: Path) -> BinaryIO:
    """Open a tar by its path."""
    shown = printable(as_bytes(path))
    with readable_errors(path):
        there = path.exists()
    if not there:
        raise VentifsError(f"{shown}: no such file or directory; name what is to be archived")
    if chosen(os.fspath(path), "file", None, None).format != TAR:
        raise VentifsError(
            f"{shown}: neither a directory nor called *.tar; open a tar, and archive the "
            "stream; 'ventifs archive' archives disks"
        )
    with readable_errors(path):
        return path.open("rb")

"""Builds directories from rows that describe their entries, in the order of a walk.

The key of a row is its path with NUL between the names. So rows in order of their keys are the tree
in pre-order, names in order of their bytes, and a tree of any size is built with a node a level in
memory.

The caller supplies the entry of a directory that has no row: `PLAIN` for tar archives, which may
leave directories out, and `CLOSED` where a directory's attributes are lost, so that nothing private
becomes accessible.
"""

import stat
from collections.abc import Callable, Iterable

import msgspec
from msgspec.structs import replace

from ventifs.tree.archive.hardlinks import link_id
from ventifs.tree.objects.prolly import Builder, Put
from ventifs.tree.objects.records import (
    Content,
    Directory,
    Empty,
    Entry,
    Tree,
    bounded_total,
    encode,
    encode_entry,
    own_entry,
)

Key = bytes
EntryRow = tuple[Key, bool, int, bytes]  # key, whether a directory, bytes of a file, encoded entry
Implied = Callable[[Key], Entry]  # the entry of a directory without a row, by its key

PLAIN = Entry(b"", stat.S_IFDIR | 0o755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
CLOSED = replace(PLAIN, mode=stat.S_IFDIR | 0o700)  # owned by root
AS_CLOSED = "kept as a directory of mode 0700, owned by root"


def plain(_: Key) -> Entry:
    """The entry of a directory that has no member of its own in a tar archive.

    Mode 0755 and owned by root, as GNU tar makes it for root with the usual umask; its time is 0.
    """
    return PLAIN


class _OpenDirectory(msgspec.Struct):
    """A directory that is being built: its own entry, and what is below it so far."""

    entry: Entry
    builder: Builder
    paths: int = 0
    total: int = 0  # bytes of regular files


def build_tree(rows: Iterable[EntryRow], put: Put, implied: Implied = plain) -> Entry:
    """Store the directories of a tree; return the root's entry.

    Args:
        rows: in order of their keys, none below an entry that is not a directory. The root's key
            is empty. Directories come without content.
        put: stores nodes.
        implied: returns the entry of a directory that has no row; also of the root.
    """
    # Hot: for every row; see docs/performance.md.
    frames = [_OpenDirectory(PLAIN, Builder(put))]
    rooted = False
    here = b""  # the key of the last frame
    for key, directory, size, record in rows:
        above, _, name = key.rpartition(b"\0")
        if above != here:
            _move(frames, here, above, put, implied)
            here = above
        frame = frames[-1]
        if not key:
            frame.entry, rooted = own_entry(record), True
        elif directory:
            frames.append(_OpenDirectory(own_entry(record), Builder(put)))
            here = key
        else:
            frame.builder.add(record, key=name)
            frame.paths += 1
            frame.total += size
    _move(frames, here, b"", put, implied)
    if not rooted:
        frames[0].entry = implied(b"")
    return _finished(frames[0])


def path_of(key: Key) -> bytes:
    """The path of a key, with a slash between the names."""
    return key.replace(b"\0", b"/")


def with_link(record: bytes, least: bytes) -> bytes:
    """Add to an encoded entry the link id of the hard-linked file with this smallest path."""
    return encode(replace(own_entry(record), link=link_id(least)))


def _move(frames: list[_OpenDirectory], here: Key, to: Key, put: Put, implied: Implied) -> None:
    """Move from one directory to another; close frames, and open those that have no row."""
    names, wanted = _names(here), _names(to)
    shared = 0
    while shared < min(len(names), len(wanted)) and names[shared] == wanted[shared]:
        shared += 1
    for _ in names[shared:]:
        _close(frames)
    for depth in range(shared, len(wanted)):
        entry = implied(b"\0".join(wanted[: depth + 1]))
        frames.append(_OpenDirectory(replace(entry, name=wanted[depth]), Builder(put)))


def _names(key: Key) -> list[bytes]:
    return key.split(b"\0") if key else []


def _close(frames: list[_OpenDirectory]) -> None:
    """Finish the last directory, and add its entry to the one above."""
    frame = frames.pop()
    entry, above = _finished(frame), frames[-1]
    above.builder.add(encode_entry(entry), key=entry.name)
    above.paths += frame.paths + 1
    above.total += frame.total


def _finished(frame: _OpenDirectory) -> Entry:
    builder = frame.builder
    content: Content = Tree(builder.finish(), builder.count) if builder.count else Empty()
    return replace(frame.entry, detail=Directory(content, frame.paths, bounded_total(frame.total)))

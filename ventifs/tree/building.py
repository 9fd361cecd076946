"""Directories built of rows that stand for all their entries, in the order of a walk.

The key of a row is its path with NUL between the names, so that rows in order of their keys are the
tree in pre-order, names in order of their bytes, and a tree of any size is built with a node a
level in memory.
"""

import stat
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from ventifs.errors import VentifsError
from ventifs.tree.links import link_id
from ventifs.tree.prolly import Builder, Put
from ventifs.tree.records import (
    LENGTH_MAX,
    Content,
    Directory,
    Empty,
    Entry,
    Tree,
    encode,
    own_entry,
)

Key = bytes
Row = tuple[Key, bool, int, bytes]  # key, whether a directory, bytes of a file, encoded entry
TOO_LARGE = "the sizes of all files sum up to more than there can be"
_IMPLIED = Entry(b"", stat.S_IFDIR | 0o755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")


class TooLarge(VentifsError):
    """The sizes of all files sum up to more than there can be."""


class _Frame(msgspec.Struct):
    """A directory on the way: its own entry, and what is below it so far."""

    entry: Entry
    builder: Builder
    paths: int = 0
    total: int = 0  # bytes of regular files


def build_tree(rows: Iterable[Row], put: Put) -> Entry:
    """Store the directories of a tree; the root's entry.

    Args:
        rows: in order of their keys, nothing below what is no directory; the root's is empty.
            Directories come without content. Those without a row of their own are implied.
        put: stores nodes.

    Raises:
        TooLarge: sizes sum up to more than there can be.
    """
    # Hot: 2 us a row.
    frames = [_Frame(_IMPLIED, Builder(put))]
    here = b""  # the key of the last of them
    for key, directory, size, record in rows:
        above, _, name = key.rpartition(b"\0")
        if above != here:
            _move(frames, here, above, put)
            here = above
        frame = frames[-1]
        if not key:
            frame.entry = own_entry(record)
        elif directory:
            frames.append(_Frame(own_entry(record), Builder(put)))
            here = key
        else:
            frame.builder.add(record, key=name)
            frame.paths += 1
            frame.total += size
    _move(frames, here, b"", put)
    return _closed(frames[0])


def path_of(key: Key) -> bytes:
    """The path, as people write it."""
    return key.replace(b"\0", b"/")


def with_link(record: bytes, least: bytes) -> bytes:
    """An encoded entry as one of a hard-linked file's, whose least path is given."""
    return encode(replace(own_entry(record), link=link_id(least)))


def _move(frames: list[_Frame], here: Key, to: Key, put: Put) -> None:
    """Close directories, and open those that no row speaks of, to get from one to another."""
    names, wanted = _names(here), _names(to)
    shared = 0
    while shared < min(len(names), len(wanted)) and names[shared] == wanted[shared]:
        shared += 1
    for _ in names[shared:]:
        _close(frames)
    for name in wanted[shared:]:
        frames.append(_Frame(replace(_IMPLIED, name=name), Builder(put)))


def _names(key: Key) -> list[bytes]:
    return key.split(b"\0") if key else []


def _close(frames: list[_Frame]) -> None:
    """All below the last directory is known: it is an entry of the one above."""
    frame = frames.pop()
    entry, above = _closed(frame), frames[-1]
    above.builder.add(encode(entry), key=entry.name)
    above.paths += frame.paths + 1
    above.total += frame.total


def _closed(frame: _Frame) -> Entry:
    if frame.total > LENGTH_MAX:
        raise TooLarge(TOO_LARGE)
    builder = frame.builder
    content: Content = Tree(builder.finish(), builder.count) if builder.count else Empty()
    return replace(frame.entry, detail=Directory(content, frame.paths, frame.total))

"""The identities of archived files, made of hashes of where they are.

A file's token is made of its directory's token and its name, so that a walk costs one hash; its
identity is made of the token and of its entry. So equal files have equal identities in every
process that serves a store, without anything being kept.
"""

from struct import Struct

from blake3 import blake3

from ventifs.vfs.archived.entry_bytes import S_DIRECTORY, S_SYMLINK, type_of, version_of
from ventifs.vfs.interface import DIRECTORY, FILE, SYMLINK, Identity

TOKEN_SIZE = 15  # a bytes object of 15 takes 48 bytes, one of 16 takes 64

_NUMBER = Struct("<Q")
_KINDS = {S_DIRECTORY: DIRECTORY, S_SYMLINK: SYMLINK}


def token_of(parent: bytes, kind: bytes, name: bytes) -> bytes:
    """The hash that the identities of a file and of the files below it are made of."""
    digest: bytes = blake3(parent + kind + name).digest(TOKEN_SIZE)
    return digest


def number_of(token: bytes) -> int:
    """An identity's number: never 0, nor one that is 0 or 1 when Linux adds 2 for an inode."""
    number: int = _NUMBER.unpack_from(token)[0]
    return number if 0 < number < 2**64 - 2 else number ^ 1 << 32


def identity_of(raw: bytes, token: bytes) -> Identity:
    """The identity of the file of a raw entry."""
    return Identity(_KINDS.get(type_of(raw), FILE), version_of(raw), number_of(token))

"""The commands that messages advise: the same archive run with one option added.

Each is one line that a shell accepts as it is, whatever the names contain. Names are quoted by
backslashes, so that a command can stand between single quotes in a message. Of the command line's
options, this module knows only the four that decide what is read.
"""

import os

import msgspec

from ventifs.image.disk import REFERRING
from ventifs.text import command_word

FORMAT = "--format"
FOLLOW_BACKING = "--follow-backing"
FOLLOW_DEVICE = "--follow-device"


class Following(msgspec.Struct, frozen=True):
    """What the administrator allows references in images to lead to.

    Attributes:
        directories: absolute; any regular file beneath one may be read.
        devices: absolute paths of block devices; they may be symbolic links.
    """

    directories: tuple[bytes, ...] = ()
    devices: tuple[bytes, ...] = ()


NOTHING = Following()


class Advice(msgspec.Struct, frozen=True):
    """An archive run, for people to repeat with another option.

    Attributes:
        source, name: as given.
        more: words for all other options that were given.
        format: the one given; empty if none was.
        following: what may be followed already, kept settings included.
    """

    source: str = "SOURCE"
    name: str = "NAME"
    more: tuple[str, ...] = ()
    format: str = ""
    following: Following = NOTHING

    def choose(self, format: str) -> str:  # noqa: A002
        """The run with a format; it keeps `following` only if such images can refer to files."""
        return self._line(format, self.following if format in REFERRING else NOTHING)

    def follow_backing(self, directory: bytes) -> str:
        """The run that follows references beneath one more directory."""
        old = self.following
        return self._line(self.format, Following((*old.directories, directory), old.devices))

    def follow_device(self, path: bytes) -> str:
        """The run that follows references to one more device."""
        old = self.following
        return self._line(self.format, Following(old.directories, (*old.devices, path)))

    def _line(self, format: str, following: Following) -> str:  # noqa: A002
        source = f"./{self.source}" if self.source.startswith("-") else self.source
        words = ["ventifs", "archive", source, "--name", self.name]
        words += [FORMAT, format] if format else []
        for directory in following.directories:
            words += [FOLLOW_BACKING, os.fsdecode(directory)]
        for device in following.devices:
            words += [FOLLOW_DEVICE, os.fsdecode(device)]
        return command_line(*words, *self.more)


def command_line(*words: str) -> str:
    """Words as a line for a shell; printable, whatever they hold."""
    return " ".join(map(command_word, words))

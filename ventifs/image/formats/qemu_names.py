"""How QEMU's headers name other images: plain paths, `file:PATH`, and `json:` with block drivers.

Understands the drivers for a file or device (file, host_device) and the two formats that are read
here layer by layer (raw, qcow2), with options that do not change the bytes that are read. All other
drivers and options are refused, and so are nodes nested more deeply than programs write them. Opens
no files: `references` opens what is named.
"""

from typing import Any, NamedTuple

import msgspec

from ventifs.image.disk import ImageError

# QEMU's names of formats, and ours. Headers name the driver host_device as a format, too.
FORMATS = {
    "raw": "raw",
    "file": "raw",
    "host_device": "raw",
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vpc": "vhd",
    "vhd": "vhd",
    "vhdx": "vhdx",
}
_DEPTH_MAX = 16  # levels of nested objects; QEMU writes four at most
_SHOWN_MAX = 40  # characters of an option, in a message
_FILES = ("file", "host_device")
# Options that change how QEMU reads, and not which bytes.
_HARMLESS = {
    "aio",
    "aio-max-batch",
    "auto-read-only",
    "cache",
    "cache-clean-interval",
    "cache-size",
    "detect-zeroes",
    "discard",
    "discard-no-unref",
    "drop-cache",
    "force-share",
    "l2-cache-entry-size",
    "l2-cache-size",
    "lazy-refcounts",
    "locking",
    "node-name",
    "pass-discard-other",
    "pass-discard-request",
    "pass-discard-snapshot",
    "read-only",
    "refcount-cache-size",
    "x-check-cache-dropped",
}


class NamedFile(NamedTuple):
    """A file and its format, as a header names them.

    Attributes:
        path: of the file or device, as the header has it.
        format: QEMU's name of it; empty if none is given.
    """

    path: bytes
    format: str


def named(name: bytes, format: str = "") -> NamedFile:  # noqa: A002
    """Parse a name in a header; `format` is the format that the header gives beside it.

    Raises:
        ImageError: it needs a driver, or an option of one, that is not understood; the message has
            only the reason, without the image's label.
    """
    name = name.rstrip(b"\0")
    if name.startswith(b"json:"):
        found = _node(_decoded(name[len(b"json:") :]))
        if found.format and format and FORMATS.get(format, format) != found.format:
            raise ImageError(f"it is said to be {found.format} by its name, and {format} beside it")
        return NamedFile(found.path, format or found.format)
    return NamedFile(_plain(name), format)


def _plain(name: bytes) -> bytes:
    for driver in _FILES:
        if name.startswith(driver.encode() + b":"):
            return name[len(driver) + 1 :]
    before, colon, _ = name.partition(b":")
    if colon and b"/" not in before:
        raise ImageError("it is reached by a protocol, and only files and devices are followed")
    return name


def _decoded(text: bytes) -> dict[str, Any]:
    try:
        options = msgspec.json.decode(text, type=dict[str, Any])
        return _nested(options)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ImageError("its name is not the JSON that QEMU writes") from error


def _nested(options: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """Convert options with dotted keys, such as `file.filename`, to nested objects.

    Raises:
        ImageError: an option is given twice, or they are nested too deeply.
    """
    if depth == _DEPTH_MAX:
        raise ImageError(f"its name has more than {_DEPTH_MAX} nodes in each other")
    found: dict[str, Any] = {}
    for key, value in options.items():
        first, dot, rest = key.partition(".")
        inner = {rest: value} if dot else value
        if isinstance(inner, dict):
            inner = _nested(inner, depth + 1)
        old = found.setdefault(first, inner)
        if old is not inner:
            if not isinstance(old, dict) or not isinstance(inner, dict) or old.keys() & inner:
                raise ImageError(f"its name has the option '{_shown(first)}' twice")
            old.update(inner)
    return found


def _node(options: dict[str, Any]) -> NamedFile:
    """The file and format that a node of QEMU's block graph stands for."""
    driver = options.pop("driver", "" if "file" in options else None)
    if driver is None and "filename" in options:
        name = options.pop("filename")
        _check(options)
        return NamedFile(_plain(_path(name)), "")
    if driver in _FILES:
        name = options.pop("filename", None)
        _check(options)
        return NamedFile(_path(name), "")
    if driver not in ("", "raw", "qcow2"):
        raise ImageError("it needs another driver of QEMU than file, raw or qcow2")
    below = options.pop("file", None)
    _check(options)
    if not isinstance(below, dict):
        raise ImageError("its name is not the JSON that QEMU writes")
    found = _node(below)
    if driver == "qcow2" and found.format not in ("", "raw"):
        raise ImageError("it is an image in an image")
    return NamedFile(found.path, driver if driver == "qcow2" else found.format or driver)


def _check(options: dict[str, Any]) -> None:
    for option in sorted(options.keys() - _HARMLESS):
        raise ImageError(
            f"its name has an option of QEMU, '{_shown(option)}', that is not understood"
        )


def _shown(option: str) -> str:
    if not (option.isascii() and option.isprintable()):
        return "?"
    return option if len(option) <= _SHOWN_MAX else option[:_SHOWN_MAX] + "..."


def _path(name: object) -> bytes:
    if not isinstance(name, str):
        raise ImageError("its name is not the JSON that QEMU writes")
    return name.encode("utf-8", "surrogateescape")

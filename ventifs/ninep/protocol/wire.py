"""Field codecs of 9P, and the compiler that makes a message's codec from its declaration.

A record is an annotated class; its fields are packed little-endian in the order they are declared.
Neighbouring fields of fixed size are merged into one struct, and the reader is compiled to
straight-line code, since interpreting the declaration takes several times as long; see
docs/performance.md.

Invariants: a reader reads nothing past `end`, allocates memory only for bytes that are there, and
raises nothing but `WireError`.
"""

import struct
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec

from ventifs.errors import VentifsError

QTDIR = 0x80  # qid.type of a directory
NAMES_MAX = 16  # MAXWELEM: names, and qids, of one walk


class WireError(VentifsError):
    """Bytes that are no valid message, or a value that does not fit its field."""


class FieldKind(msgspec.Struct, frozen=True):
    """How a field is packed.

    Attributes:
        format: struct format of a number or a qid, else of the length or count at the beginning.
        shape: empty for a number, else a name that the compiler knows.
    """

    format: str = ""
    shape: str = ""


class Qid(NamedTuple):
    """Identifies a file of a server within a session."""

    type: int
    version: int
    path: int


U8 = Annotated[int, FieldKind("B")]
U16 = Annotated[int, FieldKind("H")]
U32 = Annotated[int, FieldKind("I")]
U64 = Annotated[int, FieldKind("Q")]
QID = Annotated[Qid, FieldKind("BIQ", "qid")]
Text = Annotated[bytes, FieldKind("H", "bytes")]  # a string; bytes, since names have any encoding
Data = Annotated[bytes, FieldKind("I", "bytes")]
Names = Annotated[tuple[bytes, ...], FieldKind("H", "names")]
Qids = Annotated[tuple[Qid, ...], FieldKind("H", "qids")]


class Field(msgspec.Struct, frozen=True):
    """One field of a record: its name, its kind, and the class of a record nested in it."""

    name: str
    kind: FieldKind
    nested: type | None = None


class RecordLayout(msgspec.Struct, frozen=True):
    """The fields of a record in one dialect.

    Attributes:
        record: the class.
        fields: the fields that are on the wire, in order.
        missing: values of the fields that this dialect lacks, by name.
        optional: how many of the last fields the sender may leave out; they are then 0.
    """

    record: type
    fields: tuple[Field, ...]
    missing: dict[str, Any]
    optional: int = 0


Decode = Callable[[bytes, int, int], Any]
Encode = Callable[..., bytes]


def fields_of(record: type) -> tuple[Field, ...]:
    """The fields a class declares.

    Raises:
        TypeError: for an annotation that is no kind of field.
    """
    hints = get_type_hints(record, include_extras=True)
    return tuple(_field(name, hints[name]) for name in names_of(record))


def names_of(record: type) -> tuple[str, ...]:
    """The names of the fields a class declares."""
    return tuple(field.name for field in msgspec.structs.fields(record))


def _field(name: str, hint: Any) -> Field:
    for kind in getattr(hint, "__metadata__", ()):
        if isinstance(kind, FieldKind):
            return Field(name, kind)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return Field(name, FieldKind("H", "nested"), hint)
    raise TypeError(f"{name}: {hint!r} is no kind of field")


class Sized(NamedTuple):
    """The codec of a record nested in messages, after its length (2 bytes)."""

    decode: Decode
    encode: Encode


class _CodeWriter:
    """The Python source of a reader or a writer, and the names it uses."""

    def __init__(self, layout: RecordLayout) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {
            "record": layout.record,
            "Qid": Qid,
            "WireError": WireError,
            "NAMES_MAX": NAMES_MAX,
            "qid_of": struct.Struct("<BIQ").unpack_from,
            "pack_qid": struct.Struct("<BIQ").pack,
            "pack": struct.pack,
            "struct_error": struct.error,
        }
        self._structs = 0

    def add(self, *lines: str) -> None:
        self.lines += lines

    def struct(self, format_: str, what: str) -> str:
        """A name for a method of a compiled struct."""
        self._structs += 1
        name = f"{what}{self._structs}"
        self.names[name] = getattr(struct.Struct("<" + format_), what)
        return name

    def function(self, head: str) -> Any:
        text = head + ":\n" + "\n".join("    " + line for line in self.lines)
        exec(text, self.names)  # noqa: S102, made above from declarations alone
        return self.names[head.split("(", maxsplit=1)[0].removeprefix("def ")]


_SHORT = "raise WireError(f'{record.__name__} ends within its fields')"


def compile_decode(layout: RecordLayout, sized: dict[type, Sized]) -> Decode:
    """Compile a function of (data, start, end) that reads the record filling exactly that range.

    Args:
        layout: the layout of the record.
        sized: codecs of the records nested in it.
    """
    source = _CodeWriter(layout)
    run: list[tuple[str, str]] = []  # (variable, format) of fixed-size fields not read yet

    def flush() -> None:
        if not run:
            return
        format_ = "".join(piece for _, piece in run)
        size = struct.calcsize("<" + format_)
        unpack = source.struct(format_, "unpack_from")
        targets = ", ".join(name for name, _ in run)
        source.add(
            f"if at + {size} > end: {_SHORT}", f"{targets}, = {unpack}(data, at)", f"at += {size}"
        )
        run.clear()

    required = len(layout.fields) - layout.optional
    for number, field in enumerate(layout.fields):
        name, shape = field.name, field.kind.shape
        if number == required:
            flush()
            zeros = "".join(f"{later.name} = " for later in layout.fields[required:])
            source.add(f"{zeros}0", f"if at == end: return {_construct(layout)}")
        if not shape:
            run.append((name, field.kind.format))
        elif shape == "qid":
            run += [(f"{name}_t", "B"), (f"{name}_v", "I"), (f"{name}_p", "Q")]
        else:
            run.append((f"{name}_n", field.kind.format))
            flush()
            source.add(*_read(name, shape, field, source, sized))
    flush()
    source.add(
        "if at != end: raise WireError(f'{record.__name__} has {end - at} bytes too many')",
        f"return {_construct(layout)}",
    )
    decode: Decode = source.function("def decode(data, at, end)")
    return decode


def _read(
    name: str, shape: str, field: Field, source: _CodeWriter, sized: dict[type, Sized]
) -> list[str]:
    """Lines that read a field whose length, or count, was just read."""
    if shape == "bytes":
        return [
            f"stop = at + {name}_n",
            f"if stop > end: {_SHORT}",
            f"{name} = data[at:stop]",
            "at = stop",
        ]
    if shape == "nested":
        assert field.nested is not None
        source.names[f"{name}_decode"] = sized[field.nested].decode
        return [
            f"stop = at + {name}_n",
            f"if stop > end: {_SHORT}",
            f"{name} = {name}_decode(data, at, stop)",
            "at = stop",
        ]
    too_many = f"raise WireError(f'{{record.__name__}} has {{{name}_n}} elements')"
    lines = [
        f"if {name}_n > NAMES_MAX: {too_many}",
        f"{name} = ()",
        f"while {name}_n:",
        f"    {name}_n -= 1",
    ]
    if shape == "qids":
        lines += [
            f"    if at + 13 > end: {_SHORT}",
            f"    {name} += (Qid(*qid_of(data, at)),)",
            "    at += 13",
        ]
    else:  # extends a tuple, not a list, since nearly all walks have one name
        lines += [
            f"    if at + 2 > end: {_SHORT}",
            "    stop = at + 2 + data[at] + 256 * data[at + 1]",
            f"    if stop > end: {_SHORT}",
            f"    {name} += (data[at + 2:stop],)",
            "    at = stop",
        ]
    return lines


def _construct(layout: RecordLayout) -> str:
    values = []
    present = {field.name: field for field in layout.fields}
    for name in names_of(layout.record):
        if name not in present:
            values.append(repr(layout.missing[name]))
        elif present[name].kind.shape == "qid":
            values.append(f"Qid({name}_t, {name}_v, {name}_p)")
        else:
            values.append(name)
    return f"record({', '.join(values)})"


def compile_encode(
    layout: RecordLayout, sized: dict[type, Sized], number: int | None = None
) -> Encode:
    """Compile a function that writes a record.

    Args:
        layout: the layout of the record.
        sized: codecs of the records nested in it.
        number: for a message, its type: the writer then takes (message, tag) and
            begins with size[4] type[1] tag[2].

    Returns:
        The writer. It raises `WireError` for a value that does not fit its field.
    """
    source = _CodeWriter(layout)
    formats, values, tail, sizes = "", [], "", []
    pieces: list[tuple[str, list[str], str]] = []  # struct format, its values, what follows it
    for field in layout.fields:
        name, shape = f"m.{field.name}", field.kind.shape
        if shape == "qid":
            formats += "BIQ"
            values.append(f"*{name}")
            continue
        formats += field.kind.format
        if not shape:
            values.append(name)
            continue
        made = f"{field.name}_b"
        if shape == "bytes":
            values.append(f"len({name})")
            made = name
        elif shape == "nested":
            assert field.nested is not None
            source.names[f"{field.name}_encode"] = sized[field.nested].encode
            source.add(f"{made} = {field.name}_encode({name})")
            values.append(f"len({made})")
        else:
            each = "pack_qid(*q) for q in" if shape == "qids" else "pack('<H', len(q)) + q for q in"
            source.add(
                f"if len({name}) > NAMES_MAX: raise WireError('too many elements')",
                f"{made} = b''.join([{each} {name}])",
            )
            values.append(f"len({name})")
        sizes.append(f"len({made})")
        pieces.append((formats, values, made))
        formats, values = "", []
    if formats or not pieces:
        pieces.append((formats, values, tail))
    if number is not None:
        fixed = 7 + sum(struct.calcsize("<" + piece[0]) for piece in pieces)
        total = " + ".join([str(fixed), *sizes])
        first = pieces[0]
        pieces[0] = ("IBH" + first[0], [total, str(number), "tag", *first[1]], first[2])
    expression = " + ".join(
        f"{source.struct(format_, 'pack')}({', '.join(values)})" + (f" + {made}" if made else "")
        for format_, values, made in pieces
    )
    source.lines = ["    " + line for line in source.lines]  # in the try: these may not fit either
    source.lines.insert(0, "try:")
    source.add(
        f"    return {expression}",
        "except struct_error as error:",
        "    raise WireError(f'{record.__name__}: {error}') from None",
    )
    encode: Encode = source.function(
        "def encode(m, tag)" if number is not None else "def encode(m)"
    )
    return encode

"""Ways to damage files and bytes, as disks, crashes and people do."""

from pathlib import Path

from hypothesis import strategies as st


def flip(path: Path, offset: int, mask: int = 0x01) -> None:
    """Change bits of the byte at `offset`, which may count from the end of the file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def overwrite(path: Path, offset: int, new: bytes) -> None:
    """Replace the bytes at `offset`."""
    data = bytearray(path.read_bytes())
    data[offset : offset + len(new)] = new
    path.write_bytes(data)


def truncate(path: Path, length: int) -> None:
    """Cut a file off at a length."""
    path.write_bytes(path.read_bytes()[:length])


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with a few bytes changed, removed or inserted; always different from it."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "cut", "remove", "insert"])):
            case "change" if data:
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at:]
            case "remove":
                del data[at : at + draw(st.integers(1, 8))]
            case _:
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
    if data == whole:
        data[0] ^= 1
    return bytes(data)

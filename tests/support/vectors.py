"""Golden vectors: fixed bytes under tests/vectors, each with its source."""

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent.parent / "vectors"


def load_vectors(name: str) -> dict[str, Any]:
    """The content of a JSON file under tests/vectors."""
    vectors: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return vectors


def unhex(values: list[str]) -> list[bytes]:
    """Bytes from hexadecimal strings."""
    return [bytes.fromhex(value) for value in values]

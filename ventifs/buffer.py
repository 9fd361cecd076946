"""The type of bytes that pass from layer to layer without a copy."""

Buffer = bytes | bytearray | memoryview

"""The server's side of 9P: sessions without I/O."""

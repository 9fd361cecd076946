"""The client's side of 9P."""

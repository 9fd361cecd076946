"""The messages of 9P, and their bytes."""

"""Formats of disk images: which one a source has, and a reader for each."""

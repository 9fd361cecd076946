"""Restoring a version into a directory of the host."""

"""Archiving a directory: scanning, reading files, and putting directories together."""

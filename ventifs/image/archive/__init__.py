"""Archiving a disk: reading it, putting its content and its files' trees together."""

"""Directories of the host, served as they are now."""

"""ventifs: a content-addressed archive of guest file systems, served over 9P."""

__version__ = "0.1.0"

"""Live directories of this host as a file system."""

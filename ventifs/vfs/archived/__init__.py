"""The versions of a store, as a file system."""

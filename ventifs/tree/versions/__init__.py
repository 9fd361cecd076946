"""Versions of a store: the catalog of them, and what is asked of them as a whole."""

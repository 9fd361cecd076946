"""Versions of a store: their catalog, and operations on whole versions."""

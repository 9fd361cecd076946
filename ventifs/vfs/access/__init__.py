"""Permissions: who may do what with the files of a tree."""

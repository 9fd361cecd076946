"""Partitions and logical volumes of a disk."""

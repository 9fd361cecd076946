"""Reads file systems inside disks without mounting them."""

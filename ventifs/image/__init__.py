"""Whole disks as versions: image files and block devices, and the file systems inside."""

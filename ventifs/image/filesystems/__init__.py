"""File systems inside of disks, read without mounting them."""

"""Mounting by the Linux kernel's own client."""

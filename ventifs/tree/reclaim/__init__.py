"""Reclaiming: marks what versions need, and gives the space of the rest back."""

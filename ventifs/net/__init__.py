"""Addresses, listeners, channels and peers: what is between two machines."""

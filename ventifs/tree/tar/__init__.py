"""Tar streams: archived as versions, and versions exported as streams."""

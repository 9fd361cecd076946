"""Runs programs and parsers on hostile images, with no more rights than they need."""

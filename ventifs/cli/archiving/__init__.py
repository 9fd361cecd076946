"""Commands that make versions."""

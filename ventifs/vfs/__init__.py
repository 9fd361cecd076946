"""File systems as they are served, without any protocol."""

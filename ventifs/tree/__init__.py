"""Trees: directories and their versions, in blocks of a store."""

"""Programs and parsers for hostile images, run with no more rights than they need."""

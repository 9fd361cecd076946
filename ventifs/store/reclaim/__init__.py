"""Takes space back: finds what lives in which arena, copies it elsewhere, and drops arenas."""

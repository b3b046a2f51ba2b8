"""Where propagations are computed, and how many at once."""

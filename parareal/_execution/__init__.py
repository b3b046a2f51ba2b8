"""Execution: the places where propagations are computed, and the number computed at once."""

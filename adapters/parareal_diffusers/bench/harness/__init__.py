"""Running, timing and tabulating comparisons."""

"""Native solvers, one file per method."""

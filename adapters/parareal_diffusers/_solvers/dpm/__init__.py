"""The DPM-Solver family."""

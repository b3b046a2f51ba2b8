"""Execution, timing and tabulation of the comparison."""

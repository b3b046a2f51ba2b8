"""Sampling problems of the comparison, and the records of runs."""

"""Sampling through a pipeline's own call."""

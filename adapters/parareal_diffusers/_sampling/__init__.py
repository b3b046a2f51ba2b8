"""Sampling a network without a pipeline."""

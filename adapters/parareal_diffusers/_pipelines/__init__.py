"""Parallel-in-time sampling through a pipeline's own call: `parallelize`."""

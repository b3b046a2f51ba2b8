"""Sampling with a network and a scheduler, without a pipeline."""

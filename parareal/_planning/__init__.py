"""Predictions made before a solve: simulated settings, and the choice among them."""

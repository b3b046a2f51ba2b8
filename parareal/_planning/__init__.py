"""Predictions made before a solve: simulations, plans, and the choice of `slices="auto"`."""

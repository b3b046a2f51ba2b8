"""Schedulers of diffusers: native solvers for those we know, their own step for the others."""

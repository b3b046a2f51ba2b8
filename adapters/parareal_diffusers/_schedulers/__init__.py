"""Schedulers of diffusers as solvers: native ones by a table, all others by their own step."""

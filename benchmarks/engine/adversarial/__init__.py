"""Runs that are drawn to fool the stop rules, and what came of them."""

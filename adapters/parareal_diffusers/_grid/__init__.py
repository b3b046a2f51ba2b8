"""Nodes and noise levels."""

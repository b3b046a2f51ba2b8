"""DDIM and DDPM."""

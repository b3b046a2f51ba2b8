"""The ancestral samplers DDIM and DDPM."""

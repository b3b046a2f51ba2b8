"""Methods in the noise level sigma, after k-diffusion."""

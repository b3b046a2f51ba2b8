"""Methods in the noise level sigma, as in k-diffusion."""

"""Diffusion priors: denoisers D(x, sigma), their cards, their weights, and out-of-distribution scores."""

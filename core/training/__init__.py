"""Training of diffusion priors: data set, loop, state, validation."""

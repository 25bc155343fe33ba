"""Networks: the denoiser of the bundled priors and the deep image priors f_theta."""

"""Networks: the denoisers of the bundled and of published priors, and the deep image priors f_theta."""

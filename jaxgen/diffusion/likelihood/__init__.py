"""Likelihoods of diffusion models: the variational bound, and the density by the ODE."""

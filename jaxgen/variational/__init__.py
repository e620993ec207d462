"""Variational autoencoders put together from pieces: likelihoods, priors, bounds, and terms added to them."""

"""The latent space of a finished generator: truncation, interpolation, mixing, directions, projection of images."""

"""Differentiable augmentation of what a discriminator sees, drawn for each example."""

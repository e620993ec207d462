"""From denoisers to images: guidance, samplers, and the noise that they start from."""

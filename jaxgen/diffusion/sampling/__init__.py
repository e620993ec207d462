"""From denoisers to images: guidance, samplers, and their initial noise."""

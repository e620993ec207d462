"""Samplers, one a file: pure functions that take noise to images through descending noise levels, given a denoiser.

All have the signature `(keys, denoise, x, sigmas, *, options) -> images`:

- `keys`: one key an image; image i takes its noise at step k from `fold_in(keys[i], k)`, whatever its batch;
- `denoise`: the denoiser, in the coordinates x = clean + sigma * noise;
- `x`: where to start, at noise level `sigmas[0]`;
- `sigmas`: noise levels, descending; the last is 0, and the step there returns the denoiser's estimate.
"""

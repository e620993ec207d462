"""Samplers, one a file: pure functions that take noise to images through descending noise levels, given a denoiser.

All have the signature `(keys, denoise, x, sigmas, *, options, callback=None, trajectory=False) -> images`:

- `keys`: one key an image; image i takes its noise at step k from `fold_in(keys[i], k)`, whatever its batch;
- `denoise`: the denoiser, in the coordinates x = clean + sigma * noise;
- `x`: the images to begin with, at noise level `sigmas[0]`;
- `sigmas`: noise levels, descending; the last is 0, and the step there returns the denoiser's estimate;
- `callback`: called after every step, and returns the images from which the sampler goes on; see `stepping.Callback`;
- `trajectory`: static; if True, the result is (images, `stepping.Trajectory`), with the states at all levels.
"""

"""A directory of cached latents, as `launch.py encode` makes it, by an autoencoder that was never trained."""

import functools
import tempfile
from pathlib import Path

import jax
import numpy as np

from configs import autoencoder_kl
from jaxgen.core import keys
from jaxgen.data.sources import latents
from jaxgen.parallel import mesh
from jaxgen.runs import encoding, frozen
from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse

NUM_TRAIN = 32


@functools.cache
def directory() -> Path:
    """Makes the directory, once in a process."""
    config = autoencoder_kl.get_config("tiny")
    data = {split: experiments.load_data(parse(config), split) for split in ("train", "test")}
    spec = experiments.spec_of(data["train"])
    model = experiments.build(parse(config), spec).model
    batch = {"image": np.zeros((1, 1, *spec.image_shape), np.uint8), "index": np.zeros((1, 1), np.int32)}
    variables = model.eval_variables(jax.jit(model.init)(keys.root_key(0), batch))
    shape = model.spec.latent_shape
    encoder = encoding.make_encoder(model, variables, mesh.make_mesh(1), batch_size=360)
    made = Path(tempfile.mkdtemp(prefix="latents")) / "made"
    cached = encoding.write_splits(made, encoder, data, num_train=NUM_TRAIN, mirror=False, dtype="float32")
    frozen.save_autoencoder(made / latents.AUTOENCODER, config, spec, variables, shift=cached.shift, scale=cached.scale)
    latents.save_facts(made, data["train"], latent_shape=shape, num_examples=cached.num_examples, step=0)
    return made

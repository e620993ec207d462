"""VAE and DCGAN by artifex, with its networks, its trainers and their defaults where it has any."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from artifex.generative_models.core.configuration import (
    ConvDiscriminatorConfig,
    ConvGeneratorConfig,
    DCGANConfig,
    DecoderConfig,
    EncoderConfig,
    VAEConfig,
)
from artifex.generative_models.models.gan import DCGAN
from artifex.generative_models.models.vae import VAE
from artifex.generative_models.training.trainers import GANTrainer, GANTrainingConfig, VAETrainer, VAETrainingConfig
from flax import nnx
from training_budget import BATCH_SIZE, NUM_SAMPLES, Job, parse, save, train


def main() -> None:
    """Trains for the given CPU time, and draws samples."""
    model, job = parse(["vae", "dcgan"])
    {"vae": run_vae, "dcgan": run_dcgan}[model](job)


def run_vae(job: Job) -> None:
    """A convolutional VAE of 16 latent dimensions, pixels in [0, 1]."""
    shape = job.images.shape[1:]
    hidden = (32, 64)
    config = VAEConfig(
        name="vae",
        encoder=EncoderConfig(
            name="encoder",
            input_shape=shape,
            latent_dim=16,
            hidden_dims=hidden,
            activation="relu",
            use_batch_norm=False,
        ),
        decoder=DecoderConfig(
            name="decoder", latent_dim=16, output_shape=shape, hidden_dims=hidden[::-1], activation="relu"
        ),
        encoder_type="cnn",
    )
    model = VAE(config, rngs=nnx.Rngs(0, sample=1))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    trainer = VAETrainer(VAETrainingConfig(kl_annealing="none"))
    update = nnx.jit(lambda model, optimizer, images: trainer.train_step(model, optimizer, {"image": images}))
    images = job.images.astype(np.float32) / 255
    steps = train(job, lambda _, indices: jax.block_until_ready(update(model, optimizer, images[indices])[0]))
    drawn = np.asarray(model.sample(NUM_SAMPLES)).reshape(NUM_SAMPLES, *shape)
    save(job, drawn * 2 - 1, steps=steps, parameters=count(model))


def run_dcgan(job: Job) -> None:
    """The DCGAN of the paper's widths halved, at the paper's rates.

    The discriminator has no batch normalization: artifex's generator step cannot update its running averages.
    """
    height, width, channels = job.images.shape[1:]
    common = {"activation": "relu", "batch_norm": True, "kernel_size": (4, 4), "stride": (2, 2), "padding": "SAME"}
    config = DCGANConfig(
        name="dcgan",
        generator=ConvGeneratorConfig(
            name="generator", latent_dim=100, hidden_dims=(64, 32), output_shape=(channels, height, width), **common
        ),
        discriminator=ConvDiscriminatorConfig(
            name="discriminator",
            hidden_dims=(32, 64),
            input_shape=(channels, height, width),
            leaky_relu_slope=0.2,
            **(common | {"activation": "leaky_relu", "batch_norm": False}),
        ),
    )
    model = DCGAN(config, rngs=nnx.Rngs(params=0, dropout=1, sample=2))
    players = model.generator, model.discriminator
    optimizers = [nnx.Optimizer(player, optax.adam(2e-4, b1=0.5), wrt=nnx.Param) for player in players]
    trainer = GANTrainer(GANTrainingConfig(loss_type="vanilla"))
    discriminate, generate = nnx.jit(trainer.discriminator_step), nnx.jit(trainer.generator_step)
    images = np.transpose(job.images, (0, 3, 1, 2)).astype(np.float32) / 127.5 - 1

    def step(number: int, indices: np.ndarray) -> None:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), 3)
        z = jax.random.normal(keys[0], (2, BATCH_SIZE, 100))
        discriminate(*players, optimizers[1], images[indices], z[0], keys[1])
        jax.block_until_ready(generate(*players, optimizers[0], z[1])[0])

    steps = train(job, step)
    z = jax.random.normal(jax.random.key(1), (NUM_SAMPLES, 100))
    drawn = np.transpose(np.asarray(model.generator(z)), (0, 2, 3, 1))
    save(job, drawn, steps=steps, parameters=sum(map(count, players)))


def count(module: nnx.Module) -> int:
    """Returns the number of trained parameters."""
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


if __name__ == "__main__":
    main()

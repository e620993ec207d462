"""SNGAN, cGAN-PD and WGAN-GP with given weights, against official images, logits, losses, gradients and buffers."""

import adversarial_golden as adversarial
import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cgan_pd, sngan
from jaxgen.interop import state_dict
from jaxgen.interop.formats.sngan import FORMAT
from jaxgen.nn.sngan import Discriminator, Generator


def load_generator(name):
    kw = adversarial.settings(name)
    image_shape = golden_files.load(name).outputs["image_eval"].shape[1:]
    network = Generator(image_shape, kw["nz"], (kw["ngf"],) * 4, num_classes=kw.get("num_classes", 0))
    return adversarial.load(name, FORMAT, network, "z", "label")


def load_discriminator(name, **settings):
    kw = adversarial.settings(name)
    network = Discriminator((kw["ndf"],) * 4, num_classes=kw.get("num_classes", 0), **settings)
    return adversarial.load(name, FORMAT, network, "real", "label")


@pytest.mark.parametrize("name", ["sngan_generator", "cgan_pd_generator"])
def test_parity_with_the_official_generators(name):
    loaded = load_generator(name)
    inputs, official = loaded.inputs("z", "label"), loaded.golden.outputs

    @jax.jit
    def run(variables):
        images, layers = adversarial.capture(loaded, *inputs)
        in_training, updated = loaded.network.apply(variables, *inputs, train=True, mutable=["batch_stats"])
        return (
            images,
            layers,
            in_training,
            updated,
            loaded.network.apply({**variables, **updated}, *inputs, train=False),
        )

    images, layers, in_training, updated, after = run(loaded.variables)
    golden_files.assert_parity(images, official["image_eval"])
    stem = layers["stem"].reshape(-1, *loaded.golden.outputs["stem"].transpose(0, 3, 1, 2).shape[1:])
    golden_files.assert_parity(stem, official["stem"].transpose(0, 3, 1, 2))
    for i in range(3):
        golden_files.assert_parity(layers[f"block_{i}"][:1], official[f"block{i + 2}"])
    golden_files.assert_parity(in_training, official["image_train"])
    golden_files.assert_parity(after, official["image_eval_after_train_step"])
    adversarial.assert_updated(loaded, updated)


def losses(real, fake):
    """The losses of the library, by name; what it calls `gan` has a generator that does not saturate, as `ns`."""
    softplus, relu = jax.nn.softplus, jax.nn.relu
    discriminator = {
        "gan": softplus(-real) + softplus(fake),
        "ns": softplus(-real) + softplus(fake),
        "hinge": relu(1.0 - real) + relu(1.0 + fake),
        "wasserstein": fake - real,
    }
    generator = {"gan": softplus(-fake), "ns": softplus(-fake), "hinge": -fake, "wasserstein": -fake}
    named = {f"d_loss_{name}": jnp.mean(loss) for name, loss in discriminator.items()}
    return named | {f"g_loss_{name}": jnp.mean(loss) for name, loss in generator.items()}


@pytest.mark.parametrize("name", ["sngan_discriminator", "cgan_pd_discriminator"])
def test_parity_with_the_official_discriminators(name):
    loaded = load_discriminator(name)
    official = loaded.golden.outputs
    real, *label = loaded.inputs("real", "label")
    fake, *label_fake = loaded.inputs("fake", "label_fake")

    def train(params, real):
        """A forward of real images, then one of generated ones, each of which updates the vectors."""
        variables = {**loaded.variables, "params": params}
        of_real, updated = loaded.network.apply(variables, real, *label, train=True, mutable=["spectral"])
        of_fake, updated = loaded.network.apply(
            {**variables, **updated}, fake, *label_fake, train=True, mutable=["spectral"]
        )
        named = losses(of_real.logits, of_fake.logits)
        return named["d_loss_hinge"], (of_real.logits, of_fake.logits, named, updated)

    @jax.jit
    def run(variables):
        critique, layers = adversarial.capture(loaded, real, *label)
        gradients, aux = jax.grad(train, argnums=(0, 1), has_aux=True)(variables["params"], real)
        after = loaded.network.apply({**variables, **aux[-1]}, real, *label, train=False)
        return critique.logits, layers, gradients, aux, after.logits

    logits, layers, gradients, (of_real, of_fake, named, updated), after = run(loaded.variables)
    golden_files.assert_parity(logits[:, None], official["logits_real_eval"])
    for i in range(4):
        golden_files.assert_parity(layers[f"block_{i}"][:1], official[f"block{i + 1}"])
    golden_files.assert_parity(of_real[:, None], official["logits_real_train"])
    golden_files.assert_parity(of_fake[:, None], official["logits_fake_train"])
    golden_files.assert_parity(after[:, None], official["logits_real_eval_after_train_step"])
    for loss, value in named.items():
        adversarial.assert_close(value, official[loss], 1e-4)
    adversarial.assert_updated(loaded, updated)
    adversarial.assert_gradients(loaded, gradients[0], "d_grad_hinge/")
    adversarial.assert_close(gradients[1], official["d_grad_hinge_real"], 1e-3)


def test_parity_with_the_official_critic_of_wgan_gp():
    loaded = load_discriminator("wgan_gp_discriminator", spectral_norm=False, pooling="mean")
    official = loaded.golden.outputs
    real, fake, alpha = loaded.inputs("real", "fake", "alpha")
    alpha = alpha[:, :, None, None]

    @jax.jit
    def run(params):
        def logits_of(params, images):
            return loaded.network.apply({"params": params}, images, train=True).logits

        def loss(params):
            of_real, of_fake = logits_of(params, real), logits_of(params, fake)
            slopes = jax.grad(lambda images: jnp.sum(logits_of(params, images)))(alpha * real + (1.0 - alpha) * fake)
            penalty = 10.0 * jnp.mean((jnp.sqrt(jnp.sum(slopes**2, axis=(1, 2, 3))) - 1.0) ** 2)
            critic = jnp.mean(of_fake) - jnp.mean(of_real)
            return critic + penalty, (of_real, of_fake, critic, penalty)

        return jax.grad(loss, has_aux=True)(params)

    gradients, (of_real, of_fake, critic, penalty) = run(loaded.variables["params"])
    golden_files.assert_parity(of_real[:, None], official["logits_real"])
    golden_files.assert_parity(of_fake[:, None], official["logits_fake"])
    adversarial.assert_close(critic, official["d_loss"], 1e-4)
    adversarial.assert_close(penalty, official["gradient_penalty"], 1e-4)
    adversarial.assert_gradients(loaded, gradients, "d_grad/")
    norms = jax.tree.map(jnp.linalg.norm, gradients)
    expected = {name.removeprefix("d_grad_norm/"): v for name, v in official.items() if name.startswith("d_grad_norm/")}
    shapes = jax.tree.map(lambda norm: jax.ShapeDtypeStruct((), norm.dtype), norms)
    tree = state_dict.to_params(expected, shapes, loaded.parts[0].official)
    jax.tree.map(lambda ours, theirs: adversarial.assert_close(ours, np.asarray(theirs), 1e-3), norms, tree)


@pytest.mark.parametrize("name", ["sngan", "cgan_pd"])
def test_weights_of_both_networks_fill_a_run(name):
    config = sngan.tiny() if name == "sngan" else cgan_pd.tiny()
    weights = {}
    for player, prefix in (("generator", "G."), ("discriminator", "D.")):
        kw = adversarial.settings(f"{name}_{player}")
        config[player].channels = (kw.get("ngf", kw.get("ndf")),) * 4
        config.gan.latent_dim = kw.get("nz", config.gan.latent_dim)
        loaded = golden_files.load(f"{name}_{player}").state_dict
        weights |= {prefix + entry: array for entry, array in loaded.items()}
    config.discriminator.num_downsampling = 2
    parts = adversarial.parts_of_a_run(FORMAT, config, weights)
    assert [part.place for part in parts] == [
        "params/generator",
        "model_state/generator",
        "params/discriminator",
        "model_state/discriminator",
    ]

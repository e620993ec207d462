"""BigGAN with given weights, against official images, logits, losses, gradients and buffers; and where weights go."""

import adversarial_golden as adversarial
import golden_files
import jax
import jax.numpy as jnp
import numpy as np

from configs import biggan as config_of
from jaxgen.interop.formats.biggan import FORMAT, official_network
from jaxgen.nn import biggan

# Channels by the resolution of the images, in units of the width: those of the official classes.
OF_GENERATOR = {32: (4, 4, 4, 4), 64: (16, 16, 8, 4, 2), 128: (16, 16, 8, 4, 2, 1), 256: (16, 16, 8, 8, 4, 2, 1)}
OF_DISCRIMINATOR = {32: (4, 4, 4, 4), 64: (1, 2, 4, 8, 16), 128: (1, 2, 4, 8, 16, 16), 256: (1, 2, 4, 8, 8, 16, 16)}


def load_generator(name):
    kw = adversarial.settings(name)
    network = biggan.Generator(
        (kw["resolution"], kw["resolution"], 3),
        kw["dim_z"],
        tuple(kw["G_ch"] * factor for factor in OF_GENERATOR[kw["resolution"]]),
        attention=tuple(int(side) for side in kw["G_attn"].split("_") if int(side)),
        shared_dim=(kw["shared_dim"] or kw["dim_z"]) if kw["G_shared"] else 0,
        hierarchical=kw["hier"],
        num_classes=kw["n_classes"],
    )
    return adversarial.load(name, FORMAT, network, "z", "label")


def load_discriminator(name):
    """The official class has attention after every block of the layout for 32x32, which it counts as of 16x16."""
    kw = adversarial.settings(name)
    small = kw["resolution"] == 32
    named = [int(side) for side in kw["D_attn"].split("_") if int(side)]
    factors = OF_DISCRIMINATOR[kw["resolution"]]
    network = biggan.Discriminator(
        tuple(kw["D_ch"] * factor for factor in factors),
        2 if small else len(factors) - 1,
        attention=((16, 8) if 16 in named else ()) if small else tuple(named),
        wide=kw["D_wide"],
        num_classes=kw["n_classes"],
    )
    return adversarial.load(name, FORMAT, network, "real", "label")


def assert_layers(layers, official):
    """Compares residual blocks and attention with `blockJ_layerK`; counted over all blocks or within each."""
    ours = [name for name in layers if name.startswith(("block_", "attention_"))]
    names = [name for name in official if name.startswith("block")]
    order = sorted(ours, key=lambda name: (int(name.split("_")[1]), name.startswith("attention")))
    assert len(names) == len(order)
    for name, layer in zip(names, order, strict=True):
        golden_files.assert_parity(layers[layer][:1], official[name])


def test_parity_with_the_official_generator():
    loaded = load_generator("biggan_generator")
    inputs, official = loaded.inputs("z", "label"), loaded.golden.outputs

    @jax.jit
    def run(variables):
        images, layers = adversarial.capture(loaded, *inputs)
        in_training, updated = loaded.network.apply(variables, *inputs, train=True, mutable=["batch_stats", "spectral"])
        after = loaded.network.apply({**variables, **updated}, *inputs, train=False)
        return images, layers, in_training, updated, after

    images, layers, in_training, updated, after = run(loaded.variables)
    golden_files.assert_parity(images, official["image_eval"])
    golden_files.assert_parity(layers["shared"], official["shared"])
    stem = official["stem"].transpose(0, 3, 1, 2)
    golden_files.assert_parity(layers["stem"].reshape(stem.shape), stem)
    assert_layers(layers, official)
    golden_files.assert_parity(in_training, official["image_train"])
    golden_files.assert_parity(after, official["image_eval_after_train_step"])
    adversarial.assert_updated(loaded, updated)


def test_parity_with_the_official_discriminator():
    loaded = load_discriminator("biggan_discriminator")
    official = loaded.golden.outputs
    real, label, fake, label_fake = loaded.inputs("real", "label", "fake", "label_fake")

    def train(params, real):
        """A forward of generated and real images together."""
        both, labels = jnp.concatenate([fake, real]), jnp.concatenate([label_fake, label])
        variables = {**loaded.variables, "params": params}
        critique, updated = loaded.network.apply(variables, both, labels, train=True, mutable=["spectral"])
        of_fake, of_real = jnp.split(critique.logits, [len(fake)])
        losses = {
            "d_loss_real": jnp.mean(jax.nn.relu(1.0 - of_real)),
            "d_loss_fake": jnp.mean(jax.nn.relu(1.0 + of_fake)),
            "g_loss": -jnp.mean(of_fake),
        }
        return losses["d_loss_real"] + losses["d_loss_fake"], (of_real, of_fake, losses, updated)

    @jax.jit
    def run(variables):
        critique, layers = adversarial.capture(loaded, real, label)
        gradients, aux = jax.grad(train, argnums=(0, 1), has_aux=True)(variables["params"], real)
        after = loaded.network.apply({**variables, **aux[-1]}, real, label, train=False)
        return critique.logits, layers, gradients, aux, after.logits

    logits, layers, gradients, (of_real, of_fake, losses, updated), after = run(loaded.variables)
    golden_files.assert_parity(logits[:, None], official["logits_real_eval"])
    assert_layers(layers, official)
    golden_files.assert_parity(of_real[:, None], official["logits_real_train"])
    golden_files.assert_parity(of_fake[:, None], official["logits_fake_train"])
    golden_files.assert_parity(after[:, None], official["logits_real_eval_after_train_step"])
    for name, value in losses.items():
        adversarial.assert_close(value, official[name], 1e-4)
    adversarial.assert_updated(loaded, updated)
    adversarial.assert_gradients(loaded, gradients[0], "d_grad/")
    adversarial.assert_close(gradients[1], official["d_grad_real"], 1e-3)


def test_weights_of_all_networks_fill_a_run_and_its_average():
    generator, discriminator = load_generator("biggan_generator"), load_discriminator("biggan_discriminator")
    config = config_of.tiny()
    config.gan.latent_dim = generator.network.latent_dim
    for loaded, section in ((generator, config.generator), (discriminator, config.discriminator)):
        section.channels = loaded.network.channels
        section.attention = loaded.network.attention
    config.generator.shared_dim = generator.network.shared_dim
    config.discriminator.num_downsampling = discriminator.network.num_downsampling
    networks = {"G.": generator, "G_ema.": generator, "D.": discriminator}
    weights = {
        prefix + entry: array
        for prefix, loaded in networks.items()
        for entry, array in loaded.golden.state_dict.items()
    }
    assert [part.place for part in adversarial.parts_of_a_run(FORMAT, config, weights)] == [
        "params/generator",
        "model_state/generator",
        "ema/params/generator",
        "ema/model_state/generator",
        "params/discriminator",
        "model_state/discriminator",
    ]


def test_the_names_of_biggan_deep_are_the_official_ones():
    """The generator has lists of one block each; the discriminator one list a stage, with attention at its end."""
    blocks = {"generator": ("blocks.0.0", "blocks.3.0"), "discriminator": ("blocks.0.0", "blocks.0.1", "blocks.2.0")}
    generator, discriminator = (
        official_network(player, {f"{block}.conv1.weight": np.zeros(()) for block in of_player}).official
        for player, of_player in blocks.items()
    )
    assert generator("block_3/conv_3/kernel") == "blocks.3.0.conv4.weight"
    assert generator("batch_stats/block_3/norm_2/norm/mean") == "blocks.3.0.bn3.stored_mean"
    assert generator("block_3/norm_1/gain/kernel") == "blocks.3.0.bn2.gain.weight"
    assert generator("attention_3/theta/kernel") == "blocks.3.1.theta.weight"
    assert generator("spectral/stem/sigma") == "linear.sv0"
    assert discriminator("block_2_1/conv_2/bias") == "blocks.2.1.conv3.bias"
    assert discriminator("spectral/block_2_0/shortcut/u") == "blocks.2.0.conv_sc.u0"
    assert discriminator("attention_2/gamma") == "blocks.2.2.gamma"
    assert discriminator("stem/kernel") == "input_conv.weight"

"""Official weights, from the import command to the model of the imported run, against official outputs."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import DIRECTORY, assert_parity, load
from launching import launch

from jaxgen.diffusion.process import schedules
from jaxgen.nn import r3gan
from jaxgen.nn.networks import make_network
from jaxgen.nn.stylegan2_discriminator import Discriminator
from jaxgen.nn.stylegan2_generator import Generator
from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse
from jaxgen.training.workdir import load_config, load_spec

SMALL = {"base_channels": 16, "channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (8,)}
ADM = SMALL | {"base_channels": 32, "num_heads": 4, "head_channels": 0, "use_new_attention_order": False}
DIT = {"hidden_size": 48, "depth": 2, "num_heads": 4}
# Golden file: format, config, settings of the network, image shape.
IMPORTS = {
    "edm_ddpmpp": ("edm", "edm.py:cifar10", SMALL, (16, 16, 3)),
    "edm_ncsnpp": ("edm", "edm.py:cifar10_ncsnpp", SMALL, (16, 16, 3)),
    "edm_adm": ("edm", "edm.py:imagenet64", SMALL | {"head_channels": 64}, (16, 16, 3)),
    "edm2": ("edm2", "edm2.py:shapes", SMALL | {"base_channels": 32, "channels_per_head": 16}, (16, 16, 4)),
    "adm": ("adm", "adm.py:imagenet64", ADM, (16, 16, 3)),
    "iddpm": ("iddpm", "iddpm.py:imagenet64_cond", ADM, (16, 16, 3)),
    "dit": ("dit", "dit.py:shapes", DIT | {"patch_size": 2}, (16, 16, 4)),
}


def imported(name, directory, golden, *more):
    """The model that the import command makes of a golden file, and its variables."""
    format_, config, network, shape = IMPORTS[name]
    settings = {f"model.{key}": value for key, value in network.items()} | {"sampler.num_steps": 2}
    options = [f"--config=configs/{config}", f"--image_shape={','.join(map(str, shape))}"]
    _, model, state = run_of(format_, golden.state_dict, directory, settings, *options, *more)
    return model, model.eval_variables(state)


def run_of(format_, weights, directory, settings, *options):
    """The output of the import command, the model that it makes of weights, and its state."""
    np.savez(directory / "weights.npz", **weights)
    settings = settings | {"train.compute_dtype": "float32", "data.batch_size": 8}
    outcome = launch(
        "import",
        f"--format={format_}",
        f"--weights={directory}/weights.npz",
        f"--workdir={directory}/run",
        "--num_classes=10",
        *(f"--config.{key}={value}" for key, value in settings.items()),
        *options,
    )
    assert outcome.code == 0, outcome.err
    config = load_config(directory / "run")
    experiment = experiments.build(parse(config), load_spec(directory / "run"), directory / "run")
    state, _ = experiments.restore(experiment, directory / "run", None)
    return outcome.out, experiment.model, state


SIMILAR = {"edm_ncsnpp": "edm_ddpmpp", "iddpm": "adm"}
"""Networks that differ by settings from one that every test run imports; `tests/nn` has their golden files."""


def marked(*names):
    return [pytest.param(name, marks=pytest.mark.soak) if name in SIMILAR else name for name in names]


@pytest.mark.parametrize("name", marked("edm_ddpmpp", "edm_ncsnpp"))
def test_an_imported_network_that_is_told_of_augmentation_is_the_official_one(name, tmp_path):
    golden = load(name)
    _, variables = imported(name, tmp_path, golden)
    network = make_network(load_config(tmp_path / "run").model, out_channels=3, num_classes=10, dtype="float32")
    x, noise_label, vector = (jnp.asarray(golden.inputs[key]) for key in ("x", "noise_labels", "augment_labels"))
    label = jnp.asarray(np.argmax(golden.inputs["class_labels"], axis=1))
    apply = jax.jit(lambda params: network.apply({"params": params}, x, noise_label, label, vector=vector, train=False))
    assert_parity(apply(variables["network"]), golden.outputs["F"])


@pytest.mark.parametrize(("name", "settings"), [("edm_adm", ()), ("edm2", ("diffusion.uncertainty_channels=32",))])
def test_an_imported_denoiser_is_the_official_one(name, settings, tmp_path):
    golden = load(name)
    model, variables = imported(name, tmp_path, golden, *(f"--config.{setting}" for setting in settings))
    x = golden.inputs["x_noisy_for_D" if "x_noisy_for_D" in golden.inputs else "x_noisy"]
    label = {"label": jnp.asarray(np.argmax(golden.inputs["class_labels"], axis=1))}
    denoised = jax.jit(model.denoise)(variables, jnp.asarray(x), jnp.asarray(golden.inputs["sigma"]), label)
    assert_parity(denoised, golden.outputs["D_edm" if "D_edm" in golden.outputs else "D"])


@pytest.mark.parametrize("name", marked("adm", "iddpm", "dit"))
def test_an_imported_model_sees_the_official_noise(name, tmp_path):
    golden = load(name)
    schedule = ["--config.diffusion.schedule=linear"]
    model, variables = imported(name, tmp_path, golden, *schedule)
    t, channels = golden.inputs["t"], golden.inputs["x"].shape[-1]
    sigma = schedules.linear().table[t].astype(np.float32)
    x = golden.inputs["x"] * np.sqrt(1 + sigma**2)[:, None, None, None]
    label = {"label": jnp.asarray(golden.inputs["y"], jnp.int32)}
    denoised = jax.jit(model.denoise)(variables, jnp.asarray(x), jnp.asarray(sigma), label)
    assert_parity((x - denoised) / sigma[:, None, None, None], golden.outputs["out"][..., :channels])


STYLEGAN2 = {
    f"{network}.{key}": value
    for network in ("generator", "discriminator")
    for key, value in {"channel_base": 512, "channel_max": 32, "num_mapping_layers": 2}.items()
} | {"gan.latent_dim": 32, "generator.w_dim": 32, "discriminator.group_size": 2, "gan.class_conditional": True}


def test_an_imported_generator_is_the_official_one_and_its_adversary_new(tmp_path):
    golden = load("stylegan2_generator")
    options = ["--config=configs/stylegan2.py:shapes", "--image_shape=32,32,3"]
    said, model, state = run_of("stylegan2", golden.state_dict, tmp_path, STYLEGAN2, *options)
    assert "They have no discriminator: what they lack starts as in a new run." in said
    variables = model.eval_variables(state)
    z, label = jnp.asarray(golden.inputs["z"]), jnp.argmax(golden.inputs["c"], axis=1)
    images = jax.jit(model.decode)(variables, z, {"label": label})
    assert_parity(images, np.clip(golden.outputs["image_const_noise"], -1.0, 1.0))
    network = Generator((32, 32, 3), 32, 32, 2, 512, 32, num_classes=10)
    ws = network.apply(variables, z, label, method="styles")
    assert_parity(ws, golden.outputs["w"])
    assert_parity(network.apply(variables, ws, psi=0.5, method="truncate"), golden.outputs["w_truncated"])
    images = jax.jit(lambda ws: network.apply(variables, ws, noise_mode="none", method="synthesize"))(ws)
    assert_parity(images, golden.outputs["image_no_noise"])


def test_an_imported_run_has_both_players_and_the_average_of_the_first(tmp_path):
    golden, other = load("stylegan2_generator"), load("stylegan2_discriminator")
    raw = {name: np.zeros_like(array) for name, array in golden.state_dict.items()}  # no image of the average is of it
    weights = {f"{prefix}.{name}": array for prefix, entries in (
        ("G", raw), ("G_ema", golden.state_dict), ("D", other.state_dict)
    ) for name, array in entries.items()}  # fmt: skip
    options = ["--config=configs/stylegan2.py:shapes", "--image_shape=32,32,3"]
    said, model, state = run_of("stylegan2", weights, tmp_path, STYLEGAN2, *options)
    assert "They have no" not in said
    assert all(not leaf.any() for leaf in jax.tree.leaves(state.params["generator"]))
    variables, label = model.eval_variables(state), jnp.argmax(golden.inputs["c"], axis=1)
    images = jax.jit(model.decode)(variables, jnp.asarray(golden.inputs["z"]), {"label": label})
    assert_parity(images, np.clip(golden.outputs["image_const_noise"], -1.0, 1.0))
    judge = Discriminator(channel_base=512, channel_max=32, group_size=2, num_mapping_layers=2, num_classes=10)
    x, label = jnp.asarray(other.inputs["x"]), jnp.argmax(other.inputs["c"], axis=1)
    judged = jax.jit(functools.partial(judge.apply, train=False))({"params": state.params["discriminator"]}, x, label)
    assert_parity(judged.logits, other.outputs["logits"][:, 0])


def test_an_imported_run_of_r3gan_has_both_players_and_the_average(tmp_path):
    golden, other = load("r3gan_generator"), load("r3gan_discriminator")
    weights = {f"{prefix}.Model.{name}": array for prefix, entries in (
        ("G", golden.state_dict), ("G_ema", golden.state_dict), ("D", other.state_dict)
    ) for name, array in entries.items()}  # fmt: skip
    with np.load(DIRECTORY / "r3gan_generator.npz") as file:
        fields = json.loads(str(file["meta"]))["kw"]
    names = {"widths": "WidthPerStage", "groups": "CardinalityPerStage", "blocks": "BlocksPerStage"}
    names |= {"expansion": "ExpansionFactor", "label_features": "ConditionEmbeddingDimension"}
    settings = {
        f"{player}.{ours}": tuple(value) if isinstance(value := fields[theirs], list) else value
        for player in ("generator", "discriminator")
        for ours, theirs in names.items()
    }
    options = ["--config=configs/r3gan.py:shapes", "--image_shape=16,16,3"]
    settings["gan.latent_dim"] = fields["NoiseDimension"]
    said, model, state = run_of("r3gan", weights, tmp_path, settings, *options)
    assert "They have no" not in said
    label = jnp.argmax(golden.inputs["label"], axis=1)
    images = jax.jit(model.decode)(model.eval_variables(state), jnp.asarray(golden.inputs["z"]), {"label": label})
    assert_parity(images, np.clip(golden.outputs["image"], -1.0, 1.0))
    fields = [settings[f"discriminator.{name}"] for name in names]
    critic = r3gan.Discriminator(*fields, num_classes=10)
    variables, label = {"params": state.params["discriminator"]}, jnp.argmax(other.inputs["label"], axis=1)
    logits = jax.jit(functools.partial(critic.apply, train=False))(variables, jnp.asarray(other.inputs["real"]), label)
    assert_parity(logits.logits, other.outputs["logits_real"])

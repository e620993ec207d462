"""Official weights, from the import command to the denoiser of the imported run, against official outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import assert_parity, load
from launching import launch

from jaxgen.cli import setup
from jaxgen.diffusion import schedules
from jaxgen.nn.networks import make_network
from jaxgen.training.settings import train_settings
from jaxgen.training.workdir import load_config, load_spec

pytestmark = pytest.mark.xdist_group("import_golden")

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
    np.savez(directory / "weights.npz", **golden.state_dict)
    settings = {f"model.{key}": value for key, value in network.items()} | {
        "train.compute_dtype": "float32",
        "sampler.num_steps": 2,
        "data.batch_size": 8,
    }
    outcome = launch(
        "import",
        f"--format={format_}",
        f"--weights={directory}/weights.npz",
        f"--workdir={directory}/run",
        f"--config=configs/{config}",
        f"--image_shape={','.join(map(str, shape))}",
        "--num_classes=10",
        *(f"--config.{key}={value}" for key, value in settings.items()),
        *more,
    )
    assert outcome.code == 0, outcome.err
    config = load_config(directory / "run")
    experiment = setup.build(config, load_spec(directory / "run"), directory / "run")
    state, _ = setup.restore(experiment, train_settings(config), directory / "run", None)
    return experiment.model, experiment.model.eval_variables(state)


@pytest.mark.parametrize("name", ["edm_ddpmpp", "edm_ncsnpp"])
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


@pytest.mark.parametrize("name", ["adm", "iddpm", "dit"])
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

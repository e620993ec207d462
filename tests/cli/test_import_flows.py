"""Official flows, from the import command to the model of the imported run, against official outputs."""

import json

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
from golden_files import assert_parity
from test_import_golden import run_of


def meta_of(name):
    with np.load(golden_files.DIRECTORY / f"{name}.npz") as file:
        return json.loads(str(file["meta"]))


def test_an_imported_tarflow_is_the_official_one(tmp_path):
    golden, meta = golden_files.load("tarflow"), meta_of("tarflow")
    kw = meta["kw"]
    settings = {
        "model.patch_size": kw["patch_size"],
        "model.width": kw["channels"],
        "model.depths": (kw["layers_per_block"],) * kw["num_blocks"],
        "model.head_dim": meta["head_dim"],
        "sampler.denoise": False,
        "sampler.guidance_scale": 2.5,
        "parallel.num_devices": 1,
    }
    size = f"--image_shape={kw['img_size']},{kw['img_size']},{kw['in_channels']}"
    _, model, state = run_of(
        "tarflow", golden.state_dict, tmp_path, settings, "--config=configs/tarflow.py:imagenet64_cond", size
    )
    variables = model.eval_variables(state)
    z = jnp.asarray(golden.inputs["z"]).reshape(len(golden.inputs["z"]), -1)
    images = jax.jit(model.decode)(variables, z, {"label": jnp.asarray(golden.inputs["label"], jnp.int32)})
    expected = np.clip(golden.outputs["sample"], -1.0, 1.0)
    assert np.abs(np.asarray(images) - expected).max() <= golden_files.TOLERANCE * golden.outputs["sample"].std()


def test_an_imported_glow_is_the_port_with_its_fields_read_from_the_weights(tmp_path):
    """Its pixels, of 5 bits in [-0.5, 0.5], are ours in [-1, 1]."""
    golden = golden_files.load("glow")
    height, width, channels = golden.inputs["image"].shape[1:]
    _, model, state = run_of(
        "glow",
        golden.state_dict,
        tmp_path,
        {"parallel.num_devices": 1},
        "--config=configs/glow.py:cifar10",
        f"--image_shape={height},{width},{channels}",
    )
    latents = [
        golden.inputs[f"eps{i}"].reshape(len(golden.inputs["eps0"]), -1)
        for i in range(meta_of("glow")["kw"]["n_block"])
    ]
    images = jax.jit(model.decode)(model.eval_variables(state), jnp.asarray(np.concatenate(latents, axis=1)))
    expected = np.clip(2.0 * golden.outputs["sample"] * 256 / 255, -1.0, 1.0)
    assert_parity(images, expected)

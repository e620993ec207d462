"""LlamaGen's tokenizer with given weights, through the method, against the official outputs, losses and gradients."""

import functools
import json

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import data_spec

from configs import vqgan
from jaxgen.core import keys
from jaxgen.core.contract import Context, Env
from jaxgen.interop.format import Target
from jaxgen.interop.formats.vqgan import FORMAT
from jaxgen.interop.state_dict import to_params
from jaxgen.methods.vae import vector_quantized

GRADIENTS = 2e-3
"""The largest difference allowed to gradients, in standard deviations of the official one."""


def config_of(meta):
    """The config of the official fields, without a discriminator."""
    config, kw = vqgan.get_config("tiny"), meta["kw"]
    config.optimizer = config.optimizer.generator
    config.gan.update({"weight": 0.0, "feature_weight": 0.0, "start_steps": 0, "adaptive": False})
    for field, multipliers in (("block_channels", "encoder_ch_mult"), ("decoder_channels", "decoder_ch_mult")):
        config.model[field] = tuple(meta["channels"] * multiplier for multiplier in kw[multipliers])
    config.model.update({"latent_channels": kw["z_channels"], "num_groups": 32})
    config.model.update({"stem_channels": meta["channels"], "num_res_blocks": meta["num_res_blocks"]})
    config.quantizer.update({"num_codes": kw["codebook_size"], "code_dim": kw["codebook_embed_dim"]})
    config.quantizer.unit_norm = kw["codebook_l2_norm"]
    config.tokenizer.update({"codebook_weight": 1.0, "commitment_weight": kw["commit_loss_beta"]})
    config.tokenizer.update({"entropy_weight": kw["entropy_loss_ratio"], "entropy_temperature": 0.01})
    return config


@pytest.fixture(scope="module")
def official():
    """The golden file, our outputs by the same names, and the gradient."""
    golden = golden_files.load("vqgan")
    with np.load(golden_files.DIRECTORY / "vqgan.npz") as file:
        meta = json.loads(str(file["meta"]))
    images, code = jnp.asarray(golden.inputs["image"]), jnp.asarray(golden.inputs["code"], jnp.int32)[..., None]
    config, spec = config_of(meta), data_spec(images.shape[1:])
    model = vector_quantized.make(config, spec, Env())
    tokenizer = vector_quantized._tokenizer(config, spec, Env())
    batch = {"image": images, "index": jnp.arange(len(images))}
    whole = jax.tree.map(lambda x: x[None], batch)
    state = jax.eval_shape(model.init, keys.root_key(0), whole)
    params = {}
    for part in FORMAT.parts(Target("vae.vector_quantized", None, state.params), golden.state_dict):
        name = part.place.removeprefix("params/")
        params[name] = to_params(golden.state_dict, state.params[name], part.official, ignore=part.ignored)
    model_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), state.model_state)
    context = Context(keys.root_key(0), jnp.zeros((), jnp.int32))
    objective = vector_quantized._objective(vector_quantized._reconstruct(tokenizer))

    @jax.jit
    def run(params):
        variables = {"params": params, "codebooks": {}}
        learn = functools.partial(objective, context, model_state=model_state, batch=batch)
        (loss, (_, metrics)), grads = jax.value_and_grad(lambda own: learn(params=own), has_aux=True)(params)
        z = model.posterior(variables, images)[0]
        quantized = tokenizer.quantize(params, {}, z)
        outputs = {
            "encoder": tokenizer.network.apply(
                {"params": params["network"]}, images, method=lambda network, x: network.encoder(x)
            ),
            "z": z,
            "quantized": quantized.output,
            "reconstruction": tokenizer.decode(params["network"], quantized.output),
            "code_embedding": tokenizer.lookup(params, {}, code),
            "decoded_code": tokenizer.decode(params["network"], tokenizer.lookup(params, {}, code)),
        }
        decoded = {"of codes": model.decode(variables, code), "of vectors": model.decode(variables, z)}
        return (
            outputs,
            model.encode(jax.random.split(keys.root_key(0), len(images)), variables, images),
            {"loss": loss, **metrics},
            grads,
            decoded,
        )

    return golden, meta, run(params)


def test_outputs_are_the_official_ones(official):
    golden, _, (outputs, codes, _, _, decoded) = official
    np.testing.assert_array_equal(codes[..., 0], golden.outputs["indices"])
    for name, ours in outputs.items():
        golden_files.assert_parity(ours, golden.outputs[name])
    golden_files.assert_parity(decoded["of codes"], np.clip(golden.outputs["decoded_code"], -1.0, 1.0))
    golden_files.assert_parity(decoded["of vectors"], np.clip(golden.outputs["reconstruction"], -1.0, 1.0))


def test_losses_are_the_official_ones(official):
    golden, meta, (_, _, metrics, _, _) = official
    expected = {
        "vq_loss": metrics["loss/codebook"],
        "commit_loss": meta["kw"]["commit_loss_beta"] * metrics.get("loss/commitment", 0.0),
        "entropy_loss": meta["kw"]["entropy_loss_ratio"] * metrics.get("loss/entropy", 0.0),
        "loss": metrics["loss"],
    }
    for name, ours in expected.items():
        np.testing.assert_allclose(ours, golden.outputs[name], rtol=1e-4, err_msg=name)


def test_gradients_are_the_official_ones(official):
    *_, grads, _ = official[-1]
    ours = {
        "quantize.embedding.weight": grads["quantizer"]["codebook"],
        "quant_conv.weight": grads["network"]["quant_conv"]["kernel"].T,
        "post_quant_conv.weight": grads["network"]["post_quant_conv"]["kernel"].T,
        "encoder.conv_in.weight": jnp.transpose(grads["network"]["encoder"]["conv_in"]["kernel"], (3, 2, 0, 1)),
    }
    with np.load(golden_files.DIRECTORY / "vqgan.npz") as file:
        names = [name.removeprefix("output/grad/") for name in file.files if name.startswith("output/grad/")]
        assert set(names) == set(ours)
        for name in names:
            expected = file[f"output/grad/{name}"]
            difference = np.abs(np.asarray(ours[name]).reshape(expected.shape) - expected).max()
            assert difference <= GRADIENTS * expected.std(), name


@pytest.mark.parametrize("players", [False, True])
def test_places_are_those_of_the_generator_if_there_are_two_players(players):
    params = {"generator": {}, "discriminator": {}} if players else {"network": {}, "quantizer": {}}
    parts = FORMAT.parts(Target("vae.vector_quantized", None, params), {})
    start = "params/generator" if players else "params"
    assert [part.place for part in parts] == [f"{start}/network", f"{start}/quantizer"]


def test_the_buffer_of_usage_is_no_parameter_and_another_entry_is_refused():
    target = {"codebook": jax.ShapeDtypeStruct((3, 2), jnp.float32)}
    _, part = FORMAT.parts(Target("vae.vector_quantized", None, {"quantizer": {}}), {})
    weights = {
        "quantize.embedding.weight": np.ones((3, 2)),
        "quantize.codebook_used": np.zeros(4),
        "encoder.x": np.ones(1),
    }
    np.testing.assert_array_equal(to_params(weights, target, part.official, ignore=part.ignored)["codebook"], 1.0)
    with pytest.raises(ValueError, match=r"quantize\.other"):
        to_params({**weights, "quantize.other": np.ones(1)}, target, part.official, ignore=part.ignored)
    with pytest.raises(ValueError, match=r"of the method vae\.vector_quantized"):
        FORMAT.parts(Target("vae.autoencoder_kl", None, {}), {})

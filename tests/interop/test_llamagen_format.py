"""LlamaGen's transformer with given weights: logits, whole and incremental, guidance, greedy tokens, gradients."""

import json

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.autoregressive import raster
from jaxgen.core import conditioning
from jaxgen.core import images as ranges
from jaxgen.interop import state_dict
from jaxgen.interop.format import Target
from jaxgen.interop.formats.llamagen import FORMAT
from jaxgen.nn.autoregressive import RasterPlace
from jaxgen.nn.pixel_transformer import PixelTransformer, rotary_table

SCALE = 1.5


@pytest.fixture(scope="module")
def golden() -> golden_files.Golden:
    return golden_files.load("llamagen")


@pytest.fixture(scope="module")
def official():
    """The arrays in their own layout, and the settings of the network."""
    with np.load(golden_files.DIRECTORY / "llamagen.npz") as file:
        return dict(file.items()), json.loads(str(file["meta"]))["kw"]


def network_of(golden, kw):
    side = round(kw["block_size"] ** 0.5)
    given = {"image_shape": (side, side, 1), "channelwise": True, "levels": kw["vocab_size"]}
    sizes = {"hidden_size": kw["dim"], "depth": kw["n_layer"], "num_heads": kw["n_head"]}
    given |= {"num_outputs": kw["vocab_size"], "num_classes": kw["num_classes"], "multiple_of": kw["multiple_of"]}
    network = PixelTransformer(**given, **sizes)
    x, label = jnp.zeros((1, side, side, 1)), jnp.zeros(1, jnp.int32)
    target = jax.eval_shape(network.init, jax.random.key(0), x, label)["params"]
    (part,) = FORMAT.parts(Target("autoregressive.autoregressive", network, target), golden.state_dict)
    params = state_dict.to_params(golden.state_dict, target, part.official, ignore=part.ignored)
    return network, params, part


def test_logits_losses_and_gradients(golden, official):
    arrays, kw = official
    network, params, part = network_of(golden, kw)
    tokens, label = (jnp.asarray(golden.inputs[name]) for name in ("tokens", "label"))
    x = ranges.from_indices(tokens.reshape(-1, *network.image_shape), network.levels)
    dropped = label.at[1].set(kw["num_classes"])

    @jax.jit
    def compute(params):
        def loss(params, label):
            logits = network.apply({"params": params}, x, label).reshape(*tokens.shape, -1)
            own = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)
            return -jnp.mean(own), logits

        return loss(params, label), jax.value_and_grad(loss, has_aux=True)(params, dropped)

    (loss, logits), ((loss_dropped, logits_dropped), slopes) = compute(params)
    golden_files.assert_parity(logits, golden.outputs["logits"])
    golden_files.assert_parity(logits_dropped, golden.outputs["logits_dropped"])
    assert float(loss) == pytest.approx(float(golden.outputs["loss"]), rel=1e-4)
    assert float(loss_dropped) == pytest.approx(float(golden.outputs["loss_dropped"]), rel=1e-4)
    prefix = "output/grad_dropped/"
    given = {name.removeprefix(prefix): v for name, v in arrays.items() if name.startswith(prefix)}
    shapes = jax.eval_shape(lambda: slopes)
    theirs = state_dict.to_params({**golden.state_dict, **given}, shapes, part.official, ignore=part.ignored)
    pairs = {
        "layers.0.attention.wqkv.weight": lambda tree: tree["blocks_0"]["attention"]["qkv"]["kernel"],
        "cls_embedding.embedding_table.weight": lambda tree: tree["classes"]["embedding"],
    }
    assert set(pairs) == set(given)
    for find in pairs.values():
        assert np.abs(find(slopes) - find(theirs)).max() <= 1e-3 * np.std(find(theirs))


def test_incremental_logits_guidance_and_greedy_tokens(golden, official):
    network, params, _ = network_of(golden, official[1])
    tokens, label = (jnp.asarray(golden.inputs[name]) for name in ("tokens", "label"))
    (n, count), side, classes = tokens.shape, network.image_shape[1], network.num_classes
    x = ranges.from_indices(tokens.reshape(-1, *network.image_shape), network.levels)
    null = jnp.full_like(label, classes)
    conditions = {"label": conditioning.classes(classes, null=True)}

    def make(label):
        return raster.cached_outputs(network, params, label, count=len(label))

    guided = raster.guided_outputs(make, conditions, {"label": label}, scale=SCALE)

    def logits(outputs):
        def step(cache, t):
            out, cache = outputs.step(cache, x, RasterPlace(t // side, t % side, 0 * t))
            return cache, out

        return jnp.moveaxis(jax.lax.scan(step, outputs.cache, jnp.arange(count))[1], 0, 1)

    def greedy(keys, outputs):
        del keys
        return ranges.from_indices(jnp.argmax(outputs, axis=-1), network.levels)[:, None]

    @jax.jit
    def compute():
        draws = raster.draw_images(
            jax.random.split(jax.random.key(0), n), guided, greedy, image_shape=network.image_shape, elements=1
        )
        return logits(make(label)), logits(make(null)), logits(guided), draws

    conditional, unconditional, mixed, drawn = compute()
    golden_files.assert_parity(conditional, golden.outputs["logits_incremental"])
    golden_files.assert_parity(unconditional, golden.outputs["logits_incremental_null"])
    golden_files.assert_parity(mixed, golden.outputs[f"logits_guided_{SCALE}"])
    found = ranges.indices(drawn, network.levels).reshape(n, count)
    np.testing.assert_array_equal(found, golden.outputs[f"greedy_tokens_guided_{SCALE}"])


def test_the_rotary_table_is_the_official_one(golden, official):
    network = network_of(golden, official[1])[0]
    head_dim = network.hidden_size // network.num_heads
    angles, factors = rotary_table(network.image_shape[:2], 1, head_dim)
    table = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * factors[:, None, None]
    np.testing.assert_allclose(table, golden.outputs["rotary"][: len(table)], atol=1e-6)

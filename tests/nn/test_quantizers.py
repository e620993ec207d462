"""Quantizers: official codebooks, averages by hand, straight-through gradients, round trips, and refusals."""

import functools
import json

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normals

from jaxgen.core import keys
from jaxgen.losses import quantization as losses
from jaxgen.nn.quantization import make_quantizer, perplexity
from jaxgen.nn.quantizers.finite_scalar import FiniteScalarQuantizer
from jaxgen.nn.quantizers.residual import ResidualQuantizer
from jaxgen.nn.quantizers.vector_quantizer import VectorQuantizer, drawn_vectors, unit_vectors

KEY = keys.root_key(0)
VQ, FSQ = {"name": "vector_quantizer"}, {"name": "finite_scalar"}


def statistics_of(quantizer, variables, z):
    return quantizer.statistics(quantizer.apply(variables, z), jnp.arange(len(z)), KEY, len(z))


@functools.partial(jax.jit, static_argnums=0)
def updated(quantizer, codebooks, z):
    """The averages after a batch."""
    return quantizer.updated(codebooks, statistics_of(quantizer, {"codebooks": codebooks}, z))


@functools.partial(jax.jit, static_argnums=0)
def quantize(quantizer, variables, z):
    return quantizer.apply(variables, z)


@functools.partial(jax.jit, static_argnums=0)
def started(quantizer, z):
    """The variables at the start, without the rest of the program."""
    return quantizer.init(KEY, z)


@functools.partial(jax.jit, static_argnums=0)
def looked_up(quantizer, variables, codes):
    return quantizer.apply(variables, codes, method="lookup")


@pytest.fixture(scope="module")
def golden():
    with np.load(golden_files.DIRECTORY / "vq_codebook.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "meta"}
        return json.loads(str(file["meta"])), arrays


def channels_last(x):
    return jnp.asarray(np.moveaxis(x, -3, -1))


def close(ours, official):
    np.testing.assert_allclose(ours, official, atol=1e-5, rtol=1e-5)


def test_a_learned_codebook_is_the_official_one_with_its_losses_and_gradients(golden):
    meta, arrays = golden
    quantizer, z = VectorQuantizer(meta["codes"], meta["dim"]), channels_last(arrays["input/z"])

    def loss(z, codebook, weights):
        stage = quantizer.apply({"params": {"codebook": codebook}}, z).stages[0]
        terms = losses.codebook_loss, losses.commitment_loss
        return sum(weight * jnp.mean(term(stage.inputs, stage.vectors)) for weight, term in zip(weights, terms))  # noqa: B905

    codebook = jnp.asarray(arrays["input/codebook"])
    value = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    for name, weights in {"vq2_fixed": (1.0, meta["beta"]), "vq2_legacy": (meta["beta"], 1.0)}.items():
        found, (of_z, of_codebook) = value(z, codebook, weights)
        close(found, arrays[f"output/{name}/loss"])
        close(of_codebook, arrays[f"output/{name}/grad_codebook"])
        # The official gradient is that of the loss and of the sum of the quantized vectors or of the loss alone.
        close(of_z, channels_last(arrays[f"output/{name}/grad_z"]))
    quantized = quantizer.apply({"params": {"codebook": codebook}}, z)
    np.testing.assert_array_equal(quantized.codes[..., 0], arrays["output/indices"])
    close(quantized.output, channels_last(arrays["output/quantized"]))


def test_three_updates_of_averages_are_the_official_ones(golden):
    meta, arrays = golden
    quantizer = VectorQuantizer(meta["codes"], meta["dim"], decay=meta["decay"], epsilon=meta["eps"])
    averages = {"codes": "codebook", "size": "ema_cluster_size", "sum": "ema_sum"}
    codebooks = {"codebook": {ours: jnp.asarray(arrays[f"input/{name}"]) for ours, name in averages.items()}}

    @jax.jit
    def step(codebooks, z):
        quantized = quantizer.apply({"codebooks": codebooks}, z)
        statistics = statistics_of(quantizer, {"codebooks": codebooks}, z)
        (stage,) = quantized.stages
        commitment = jnp.mean(losses.commitment_loss(stage.inputs, stage.vectors))
        return quantized, commitment, statistics, quantizer.updated(codebooks, statistics)

    for i, z in enumerate(arrays["input/z_steps"]):
        quantized, commitment, statistics, codebooks = step(codebooks, channels_last(z))
        official = {name.rpartition("/")[2]: x for name, x in arrays.items() if f"ema_step{i}/" in name}
        np.testing.assert_array_equal(quantized.codes[..., 0], official["indices"])
        close(meta["beta"] * commitment, official["commit_loss"])
        close(quantized.output, channels_last(official["quantized"]))
        close(perplexity(statistics["codebook"]["counts"]), official["perplexity"])
        for ours, name in {"codes": "codebook", "size": "cluster_size", "sum": "sum"}.items():
            close(codebooks["codebook"][ours], official[name])


def test_gradients_go_straight_through_and_reach_the_codebook_by_its_loss_alone():
    quantizer, codebook = VectorQuantizer(2, 2), jnp.array([[0.0, 0.0], [1.0, 2.0]])
    z, weights = jnp.array([[[[0.2, 0.1], [0.9, 1.5]]]]), jnp.array([[[[3.0, -1.0], [0.5, 4.0]]]])

    def output(z, codebook):
        return jnp.sum(weights * quantizer.apply({"params": {"codebook": codebook}}, z).output)

    value, (of_z, of_codebook) = jax.jit(jax.value_and_grad(output, argnums=(0, 1)))(z, codebook)
    np.testing.assert_allclose(of_z, weights)
    np.testing.assert_array_equal(of_codebook, 0.0)
    np.testing.assert_allclose(value, 0.5 * 1.0 + 4.0 * 2.0, rtol=1e-6)

    def loss(z, codebook, term):
        (stage,) = quantizer.apply({"params": {"codebook": codebook}}, z).stages
        return jnp.mean(term(stage.inputs, stage.vectors))

    for term, reached in ((losses.codebook_loss, 1), (losses.commitment_loss, 0)):
        found = jax.jit(functools.partial(jax.grad(loss, argnums=(0, 1)), term=term))(z, codebook)
        difference = np.array([[0.2, 0.1], [-0.1, -0.5]])  # of inputs and their codes
        expected = [2.0 * difference.reshape(z.shape) / 4.0, -2.0 * difference / 4.0]
        np.testing.assert_allclose(found[reached], expected[reached], atol=1e-6)
        np.testing.assert_array_equal(found[1 - reached], 0.0)


def test_codes_of_unit_length_are_those_of_the_largest_cosine():
    quantizer, codebook = VectorQuantizer(2, 2, unit_norm=True), jnp.array([[0.1, 0.0], [30.0, 40.0]])
    z = jnp.array([[[[50.0, 1.0], [0.3, 0.4]]]])  # the first is nearest to the long code only
    variables = {"params": {"codebook": codebook}}
    found = jax.tree.map(np.asarray, quantize(quantizer, variables, z))
    np.testing.assert_array_equal(found.codes[0, 0, :, 0], [0, 1])
    np.testing.assert_allclose(found.output[0, 0], [[1.0, 0.0], [0.6, 0.8]], atol=1e-6)
    np.testing.assert_allclose(looked_up(quantizer, variables, found.codes), found.output, atol=1e-6)
    np.testing.assert_allclose(found.stages[0].inputs[0, 0, 1], [0.6, 0.8], atol=1e-6)


def test_averages_of_one_batch_by_hand():
    quantizer = VectorQuantizer(3, 1, decay=0.75, epsilon=0.5)
    old = {"codes": jnp.array([[0.0], [10.0], [99.0]]), "size": jnp.array([2.0, 1.0, 1.0])}
    codebooks = {"codebook": {**old, "sum": jnp.array([[0.0], [10.0], [99.0]])}}
    z = jnp.array([[[[1.0], [2.0]]], [[[12.0], [-1.0]]]])
    new = updated(quantizer, codebooks, z)["codebook"]
    size = 0.75 * np.array([2.0, 1.0, 1.0]) + 0.25 * np.array([3.0, 1.0, 0.0])
    total = 0.75 * np.array([0.0, 10.0, 99.0]) + 0.25 * np.array([2.0, 12.0, 0.0])
    smoothed = (size + 0.5) / (size.sum() + 1.5) * size.sum()
    np.testing.assert_allclose(new["size"], size, rtol=1e-6)
    np.testing.assert_allclose(new["sum"][:, 0], total, rtol=1e-6)
    np.testing.assert_allclose(new["codes"][:, 0], total / smoothed, rtol=1e-6)


def test_a_code_that_is_not_chosen_keeps_its_vector_from_the_start_on():
    quantizer = VectorQuantizer(4, 2, decay=0.5)
    z = jnp.zeros((1, 1, 3, 2))
    codebooks = started(quantizer, z)["codebooks"]
    codes = quantize(quantizer, {"codebooks": codebooks}, z).codes
    new, old = (np.asarray(c["codebook"]["codes"]) for c in (updated(quantizer, codebooks, z), codebooks))
    kept = np.setdiff1d(np.arange(4), np.unique(codes))
    np.testing.assert_allclose(new[kept], old[kept], rtol=1e-3)
    assert len(kept) == 3


def test_dead_codes_become_vectors_of_the_batch_and_others_stay():
    dead = VectorQuantizer(5, 2, decay=0.5, revive_below=0.6)
    alive = dead.clone(revive_below=0.0)
    z = jnp.asarray(normals(6, 2, 3, 2) + 100.0)  # all of them choose one code
    codebooks = jax.tree.map(np.array, started(dead, z)["codebooks"])
    codebooks["codebook"]["codes"][3] = 100.0
    both = (updated(quantizer, codebooks, z)["codebook"] for quantizer in (dead, alive))
    found, plain = (jax.tree.map(np.asarray, averages) for averages in both)
    np.testing.assert_allclose(found["codes"][3], plain["codes"][3])
    np.testing.assert_allclose(found["size"], [1.0, 1.0, 1.0, 0.5 * 1.0 + 0.5 * 36.0, 1.0])
    rows = {tuple(row) for row in np.asarray(z).reshape(-1, 2)}
    revived = [tuple(row) for i, row in enumerate(np.asarray(found["codes"])) if i != 3]
    assert set(revived) <= rows
    assert len(set(revived)) >= 3  # drawn one by one
    np.testing.assert_array_equal(found["sum"][:3], found["codes"][:3])
    assert np.abs(plain["codes"][:3]).max() < 10.0


def test_a_draw_of_the_batch_is_the_sum_of_those_of_its_parts_in_any_order():
    z, index = normals(6, 2, 2, 3), np.array([4, 0, 5, 1, 3, 2], np.int32)
    draw = jax.jit(functools.partial(drawn_vectors, number=50, batch_size=6))
    whole = draw(KEY, z, index)
    parts = [np.asarray(draw(KEY, z[own], index[own])) for own in (slice(3), slice(3, None))]
    np.testing.assert_allclose(sum(parts), whole, atol=1e-6)
    order = np.argsort(index)
    np.testing.assert_allclose(draw(KEY, z[order], index[order]), whole, atol=1e-6)
    rows = {tuple(row) for row in np.asarray(z).reshape(-1, 3)}
    drawn = [tuple(row) for row in np.asarray(whole)]
    assert set(drawn) <= rows
    assert len(set(drawn)) > 15  # of 24
    assert not np.allclose(draw(keys.root_key(1), z, index), whole)


@pytest.mark.parametrize(("counts", "expected"), [([5, 5, 5, 5], 4.0), ([7, 0, 0], 1.0), ([1, 1, 2], 2.0**1.5)])
def test_perplexity_of_known_assignments(counts, expected):
    np.testing.assert_allclose(perplexity(jnp.array(counts, jnp.float32)), expected, rtol=1e-6)


@pytest.mark.parametrize("levels", [(2, 3), (5, 4, 3), (8, 5)])
def test_every_code_of_finite_scalars_comes_back(levels):
    quantizer = FiniteScalarQuantizer(levels)
    codes = jnp.arange(np.prod(levels), dtype=jnp.int32).reshape(1, 1, -1, 1)
    vectors = np.asarray(looked_up(quantizer, {}, codes))
    digits = [(np.arange(np.prod(levels)) // np.prod(levels[:i], dtype=int)) % size for i, size in enumerate(levels)]
    expected = [(digit - size // 2) / (size // 2) for digit, size in zip(digits, levels, strict=True)]
    np.testing.assert_allclose(vectors[0, 0], np.stack(expected, axis=-1), atol=1e-6)
    assert (vectors.min(), vectors.max() <= 1.0) == (-1.0, True)
    # The inverse of the bound, of the very levels.
    half = (np.array(levels) - 1) * 1.001 / 2
    offset = np.where(np.array(levels) % 2 == 0, 0.5, 0.0)
    z = np.arctanh((vectors * (np.array(levels) // 2) + offset) / half) - np.arctanh(offset / half)
    found = quantize(quantizer, {}, jnp.asarray(z, jnp.float32))
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(found.output, vectors, atol=1e-6)
    assert quantizer.num_codes == np.prod(levels)


def test_gradients_of_finite_scalars_are_those_of_the_bound():
    z = jnp.array([0.7, -0.2]).reshape(1, 1, 1, 2)
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(FiniteScalarQuantizer((5, 4)).apply({}, z).output)))(z)
    half, shift = np.array([2.002, 1.5015]), np.arctanh(np.array([0.0, 0.5 / 1.5015]))
    expected = half * (1.0 - np.tanh(np.array([0.7, -0.2]) + shift) ** 2) / np.array([2.0, 2.0])
    np.testing.assert_allclose(gradient.reshape(-1), expected, rtol=1e-4)
    zero = quantize(FiniteScalarQuantizer((5, 4)), {}, jnp.zeros((1, 1, 1, 2)))
    np.testing.assert_array_equal(zero.output, 0.0)


def test_each_codebook_quantizes_what_the_ones_before_have_left():
    quantizer, z = ResidualQuantizer(3, 8, 2), jnp.asarray(normals(4, 3, 3, 2))
    params = jax.eval_shape(quantizer.init, KEY, z)["params"]
    books = [normals(8, 2, seed=1 + i) * np.float32(0.5**i) for i in range(3)]
    for i, book in enumerate(books):
        book[0] = 0.0  # so that a further codebook cannot do harm
        assert params[f"codebook_{i}"]["codebook"].shape == book.shape
        params[f"codebook_{i}"]["codebook"] = jnp.asarray(book)
    found = jax.tree.map(np.asarray, quantize(quantizer, {"params": params}, z))
    left, errors = np.asarray(z).reshape(-1, 2), []
    for i, book in enumerate(books):
        code = np.square(left[:, None] - book[None]).sum(-1).argmin(1)
        np.testing.assert_array_equal(found.codes[..., i].reshape(-1), code)
        np.testing.assert_allclose(found.stages[i].inputs.reshape(-1, 2), left, atol=1e-6)
        left = left - book[code]
        errors.append(np.square(left).mean())
    assert errors[0] > errors[1] > errors[2]
    np.testing.assert_allclose(found.output.reshape(-1, 2), np.asarray(z).reshape(-1, 2) - left, atol=1e-6)
    np.testing.assert_allclose(looked_up(quantizer, {"params": params}, found.codes), found.output, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(jnp.square(quantizer.apply({"params": params}, z).output))))(z)
    np.testing.assert_allclose(gradient, 2.0 * found.output, rtol=1e-5)


def test_what_is_left_over_moves_no_codebook_by_the_commitment_loss():
    """It is constant but for the input: its gradient is the sum of those of all stages."""
    quantizer, z = ResidualQuantizer(2, 5, 2), jnp.asarray(normals(2, 1, 3, 2))
    params = {f"codebook_{i}": {"codebook": jnp.asarray(normals(5, 2, seed=1 + i))} for i in range(2)}

    def loss(params, z):
        stages = quantizer.apply({"params": params}, z).stages
        return sum(jnp.mean(losses.commitment_loss(stage.inputs, stage.vectors)) for stage in stages), stages

    (of_params, of_z), stages = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, z)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(of_params))
    expected = sum(2.0 * (np.asarray(stage.inputs) - np.asarray(stage.vectors)) / z.size for stage in stages)
    np.testing.assert_allclose(of_z, expected, rtol=1e-5)


def test_codes_start_within_one_over_their_number_or_on_the_unit_sphere():
    z = jnp.zeros((1, 1, 1, 3))
    codes = np.asarray(started(VectorQuantizer(64, 3), z)["params"]["codebook"])
    assert 0.95 / 64 < np.abs(codes).max() <= 1 / 64
    for decay, kind in ((None, "params"), (0.9, "codebooks")):
        found = started(VectorQuantizer(64, 3, unit_norm=True, decay=decay), z)[kind]["codebook"]
        codes = found if decay is None else found["sum"]
        np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1.0, rtol=1e-5)
    values, slope = jax.jit(jax.value_and_grad(lambda x: jnp.sum(unit_vectors(x))))(np.zeros(3, np.float32))
    assert values == 0.0
    assert np.isfinite(slope).all()


def test_each_codebook_has_averages_of_its_own():
    quantizer, z = ResidualQuantizer(2, 4, 2, decay=0.5, revive_below=0.8), jnp.asarray(normals(3, 2, 2, 2))
    stage = VectorQuantizer(4, 2, decay=0.5, revive_below=0.8)

    @jax.jit
    def found_and_expected():
        codebooks, expected = quantizer.init(KEY, z)["codebooks"], {}
        inputs = [stage.inputs for stage in quantizer.apply({"codebooks": codebooks}, z).stages]
        for name, own in zip(("codebook_0", "codebook_1"), inputs, strict=True):
            quantized = stage.apply({"codebooks": codebooks[name]}, own)
            statistics = stage.statistics(quantized, jnp.arange(3), keys.stream(KEY, name), 3)
            expected[name] = stage.updated(codebooks[name], statistics)
        return updated(quantizer, codebooks, z), expected

    found, expected = found_and_expected()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for leaf in ("codes", "size", "sum"):
        for name in ("codebook_0", "codebook_1"):
            np.testing.assert_allclose(found[name]["codebook"][leaf], expected[name]["codebook"][leaf], atol=1e-6)


def test_entropy_of_choices_by_hand():
    distances = np.float32([[0.0, 1.0, 2.0], [3.0, 0.5, 0.1]]).reshape(2, 1, 1, 3)
    share = np.exp(-np.array(distances).reshape(2, 3) / 0.7)
    share /= share.sum(1, keepdims=True)
    mean = share.mean(0)
    expected = -(share * np.log(share)).sum(1).mean() + (mean * np.log(mean + 1e-5)).sum()
    loss = jax.jit(lambda d: losses.entropy_loss(d, temperature=0.7))
    np.testing.assert_allclose(loss(distances), expected, rtol=1e-5)
    over = jax.vmap(lambda d: losses.entropy_loss(d, temperature=0.7, axis_name="parts"), axis_name="parts")
    np.testing.assert_allclose(np.mean(jax.jit(over)(distances)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"name": "absent"}, "quantizer.name is 'absent', but must be one of finite_scalar, residual, vector_quant"),
        (VQ | {"levels": (2,)}, "quantizer.levels is not a setting"),
        (VQ | {"num_codes": 1}, r"quantizer\.num_codes is 1, but must lie in \[2, "),
        (VQ | {"code_dim": 0}, r"quantizer\.code_dim is 0"),
        (VQ | {"decay": 1.0}, r"quantizer\.decay is 1\.0, but must lie in \[0, 1\)"),
        (VQ | {"decay": 0.9, "epsilon": 0.0}, r"quantizer\.epsilon is 0\.0, but must be positive"),
        (VQ | {"decay": 0.9, "revive_below": -1.0}, r"revive_below is -1\.0, but must be at least"),
        (VQ | {"revive_below": 1.0}, r"revive_below is 1\.0, but has no effect without .*decay"),
        (VQ | {"epsilon": 1.0}, r"epsilon is 1\.0, but has no effect without quantizer\.decay"),
        ({"name": "residual", "num_codebooks": 0}, r"quantizer\.num_codebooks is 0"),
        ({"name": "residual", "num_codes": 1}, r"quantizer\.num_codes is 1"),
        ({"name": "residual", "revive_below": 1.0}, r"revive_below is 1\.0, but has no effect"),
        (FSQ | {"levels": (3, 1)}, r"quantizer\.levels is \(3, 1\), but must be numbers of at least 2"),
        (FSQ | {"levels": ()}, r"quantizer\.levels is \(\), but must be"),
        (FSQ | {"levels": (300, 300, 300)}, r"num_codes is 27000000, but must lie in"),
    ],
)  # fmt: skip
def test_refusals(section, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_quantizer(section)

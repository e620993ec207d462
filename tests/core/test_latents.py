"""Training on posteriors of latents: what is drawn, and how images come back, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import data_spec

from jaxgen.core import keys
from jaxgen.core.contract import CONSTANT, GenerativeModel, ModelSpec, Phase, TrainState
from jaxgen.core.latent_coding import LatentCoding
from jaxgen.core.latents import checked_latents, latent_kind, latent_spec, with_latents

KEY, PHASE = keys.root_key(0), Phase(resolution=5)
SHIFT, SCALE = np.array([1.0, -2.0], np.float32), np.array([0.5, 4.0], np.float32)
FROZEN = {"autoencoder": {"variables": {"gain": np.float32(3.0)}, "shift": SHIFT, "scale": SCALE}}
STATE = TrainState(jnp.zeros((), jnp.int32), (), (), (), frozen=FROZEN)
PIXELS = GenerativeModel(
    ModelSpec((4, 4, 2), latent_shape=(2, 2, 2)),
    init=lambda key, batch: pytest.fail("a frozen autoencoder is not initialized"),
    update=lambda key, state, batch, phase=None: pytest.fail("a frozen autoencoder is not trained"),
    sample=lambda keys, variables, cond=None: pytest.fail("its own samples are not wanted"),
    eval_variables=lambda state: pytest.fail("it has no state"),
    encode=lambda keys, variables, images, cond=None: images[:, ::2, ::2] / variables["gain"],
    decode=lambda variables, latents, cond=None: variables["gain"] * latents.repeat(2, axis=1).repeat(2, axis=2),
)


def noise(sample_keys):
    return jax.vmap(lambda key: jax.random.normal(key, (2, 2, 2)))(sample_keys)


def see(key, state, batch, phase=CONSTANT):
    """An update that keeps what it was trained on in the place of parameters."""
    return state._replace(params=batch["image"]), {"phase": jnp.float32(phase.resolution)}


INNER = GenerativeModel(
    latent_spec(data_spec((2, 2, 4), 3), PIXELS)._replace(likelihood="exact"),
    init=lambda key, batch, frozen=(): TrainState(jnp.zeros((), jnp.int32), batch["image"], (), (), frozen=frozen),
    update=see,
    sample=lambda keys, variables, cond=None: variables["mean"] + noise(keys),
    eval_variables=lambda state: {"mean": jnp.float32(7.0)},
    log_prob=lambda keys, variables, images, cond=None: pytest.fail("a likelihood of latents is none of images"),
    styles=lambda variables, latents, cond=None: pytest.fail("its latents are none of images"),
    synthesize=lambda variables, styles: pytest.fail("it synthesizes latents, not images"),
    denoise=lambda variables, x, sigma, cond=None: pytest.fail("noise levels of latents are none of images"),
    level_log_probs=lambda variables, images, position, cond=None: pytest.fail("its levels are codes"),
    latent_coding=LatentCoding((1,), 2, *[lambda *args: pytest.fail("its levels are codes")] * 2),
    frozen=("guide",),
)
MODEL = with_latents(INNER, PIXELS)


def batch_of(mean, std, shape):
    moments = jnp.concatenate([jnp.broadcast_to(x, (*shape, 2, 2, 2)) for x in (mean, std)], axis=-1)
    return {"image": moments, "index": jnp.arange(np.prod(shape), dtype=jnp.int32).reshape(shape)}


def drawn(batch, key=KEY):
    return MODEL.update(key, STATE, batch, phase=PHASE)[0].params


def test_a_latent_without_deviation_is_its_mean_standardized():
    image = drawn(batch_of(jnp.array([3.0, 2.0]), 0.0, (1, 4)))
    np.testing.assert_allclose(image, np.broadcast_to((3.0 - 1.0) / 0.5, image.shape).copy() * [1.0, 0.25], rtol=1e-6)
    np.testing.assert_allclose(MODEL.init(KEY, batch_of(SHIFT, 0.0, (1, 4)), FROZEN).params, 0.0, atol=1e-7)


def test_latents_are_drawn_from_their_posterior():
    image = drawn(batch_of(jnp.array([3.0, 2.0]), jnp.array([1.0, 2.0]), (2, 2000)))
    np.testing.assert_allclose(image.mean((0, 1, 2, 3)), [4.0, 1.0], atol=5 * 2.0 / np.sqrt(16_000))
    np.testing.assert_allclose(image.std((0, 1, 2, 3)), [2.0, 0.5], rtol=0.03)


def test_noise_is_that_of_the_examples_own_stream():
    mean, std = np.array([3.0, 2.0], np.float32), np.array([1.0, 2.0], np.float32)
    batch = {**batch_of(mean, std, (2, 2)), "index": jnp.array([[3, 0], [1, 2]])}
    example_keys = keys.per_example(KEY, batch["index"].reshape(-1))
    eps = np.asarray(noise(keys.fold_each(example_keys, "posterior"))).reshape(2, 2, 2, 2, 2)
    np.testing.assert_allclose(drawn(batch), (mean + std * eps - SHIFT) / SCALE, rtol=1e-5, atol=1e-6)


def test_noise_belongs_to_step_and_example_not_to_the_layout():
    batch = batch_of(0.0, 1.0, (1, 4))
    whole = drawn(batch)
    halves = drawn(jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[2:]), batch))
    np.testing.assert_array_equal(whole.reshape(halves.shape), halves)
    assert len({x.tobytes() for x in np.asarray(whole[0])}) == 4
    assert not np.any(drawn(batch, keys.root_key(1)) == whole)


def test_samples_are_decoded_latents_of_the_variables_given():
    variables = MODEL.eval_variables(STATE)
    sample_keys = keys.per_example(KEY, jnp.arange(3))
    latents = (7.0 + np.asarray(noise(sample_keys))) * SCALE + SHIFT
    expected = latents.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(MODEL.sample(sample_keys, variables), 3.0 * expected, rtol=1e-5)
    other = {**variables, "autoencoder": {**FROZEN["autoencoder"], "variables": {"gain": np.float32(-1.0)}}}
    np.testing.assert_allclose(jax.jit(MODEL.sample)(sample_keys, other), -expected, rtol=1e-5)


def test_decoding_inverts_encoding():
    variables = MODEL.eval_variables(STATE)
    latents = jax.random.normal(KEY, (3, 2, 2, 2))
    images = MODEL.decode(variables, latents)
    np.testing.assert_allclose(MODEL.encode(jax.random.split(KEY, 3), variables, images), latents, atol=1e-5)


def test_the_model_is_one_of_images():
    assert MODEL.spec == data_spec((4, 4, 2), 3, latent_shape=(2, 2, 2))
    assert (MODEL.log_prob, MODEL.denoise, MODEL.posterior) == (None, None, None)
    assert (MODEL.styles, MODEL.synthesize) == (None, None)
    assert MODEL.frozen == ("guide", "autoencoder")
    assert MODEL.init(KEY, batch_of(0.0, 1.0, (1, 1)), FROZEN).frozen is FROZEN
    assert MODEL.update(KEY, STATE, batch_of(0.0, 1.0, (1, 1)), phase=PHASE)[1]["phase"] == 5


def test_latents_are_brought_to_the_deviation_that_their_model_assumes():
    spec = INNER.spec._replace(sigma_data=0.25)
    model = with_latents(INNER._replace(spec=spec), PIXELS)
    batch = batch_of(SHIFT, SCALE, (2, 2000))  # the aggregate posterior, of mean `shift` and deviation `scale`
    for image in (model.update(KEY, STATE, batch, phase=PHASE)[0].params, model.init(KEY, batch, FROZEN).params):
        np.testing.assert_allclose(image.mean((0, 1, 2, 3)), 0.0, atol=5 * 0.25 / np.sqrt(16_000))
        np.testing.assert_allclose(image.std((0, 1, 2, 3)), 0.25, rtol=0.03)
    variables, latents = model.eval_variables(STATE), jax.random.normal(KEY, (3, 2, 2, 2))
    images = model.decode(variables, latents)
    sized = np.asarray(latents).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(images, 3.0 * (sized / 0.25 * SCALE + SHIFT), rtol=1e-5)
    np.testing.assert_allclose(model.encode(jax.random.split(KEY, 3), variables, images), latents, atol=1e-5)
    sample_keys = keys.per_example(KEY, jnp.arange(3))
    np.testing.assert_array_equal(
        model.sample(sample_keys, variables), model.decode(variables, 7.0 + noise(sample_keys))
    )
    assert model.spec.sigma_data is None  # which would be that of images


TABLE = jnp.array([[1.0, -1.0], [2.0, 0.5], [0.0, 3.0], [-1.0, 1.0], [0.25, 0.75]])
TOKENIZER = PIXELS._replace(
    spec=ModelSpec((4, 4, 2), latent_shape=(2, 2, 1), latent_levels=5, code_dim=2),
    encode=lambda keys, variables, images, cond=None: jnp.int32(images[:, ::2, ::2, :1]),
    posterior=lambda variables, images, cond=None: (images[:, ::2, ::2], jnp.zeros((len(images), 2, 2, 2))),
    decode=lambda variables, latents, cond=None: decode_codes(variables, latents),
)


def decode_codes(variables, latents):
    vectors = TABLE[latents[..., 0]] if jnp.issubdtype(latents.dtype, jnp.integer) else jnp.round(latents)
    return variables["gain"] * vectors.repeat(2, axis=1).repeat(2, axis=2)


CODES = data_spec((2, 2, 1), 3, latent_levels=5)


def prior_of(values, spec):
    """A prior whose samples are always the same, and whose updates keep what they are trained on."""
    draw = lambda keys, variables, cond=None: jnp.broadcast_to(values, (len(keys), *spec.image_shape))  # noqa: E731
    return INNER._replace(spec=spec, sample=draw, eval_variables=lambda state: ())


@pytest.mark.parametrize("k", range(5))
def test_a_prior_that_always_gives_one_code_draws_what_the_autoencoder_decodes_of_it(k):
    spec = latent_spec(CODES, TOKENIZER)
    assert (spec.levels, spec.image_shape, spec.continuous, spec.latent_levels) == (5, (2, 2, 1), False, None)
    model = with_latents(prior_of(k / 2 - 1.0 + 0.2, spec), TOKENIZER, "codes")  # not quite the value of the level
    images = model.sample(jax.random.split(KEY, 3), model.eval_variables(STATE))
    np.testing.assert_allclose(images, 3.0 * np.broadcast_to(TABLE[k], (3, 4, 4, 2)), rtol=1e-6)


def test_codes_are_seen_as_levels_and_come_back():
    model = with_latents(prior_of(0.0, latent_spec(CODES, TOKENIZER)), TOKENIZER, "codes")
    codes = jnp.arange(16).reshape(2, 2, 2, 2, 1) % 5
    batch = {"image": codes, "index": jnp.arange(4).reshape(2, 2)}
    for seen in (model.update(KEY, STATE, batch, phase=PHASE)[0].params, model.init(KEY, batch, FROZEN).params):
        np.testing.assert_allclose(seen, np.asarray(codes) / 2.0 - 1.0)
    variables, latents = model.eval_variables(STATE), codes[0] / 2.0 - 1.0
    np.testing.assert_allclose(model.decode(variables, latents), decode_codes({"gain": 3.0}, codes[0]))
    images = jnp.float32(codes[0]).repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(model.encode(jax.random.split(KEY, 2), variables, images), latents)
    assert model.spec == data_spec((4, 4, 2), 3, latent_shape=(2, 2, 1))


@pytest.mark.parametrize("kind", ["plain", "moments"])
def test_vectors_before_quantization_are_numbers_that_the_autoencoder_quantizes(kind):
    data = data_spec((2, 2, 2 if kind == "plain" else 4), 3)
    assert latent_kind(data, TOKENIZER.spec) == kind
    spec = latent_spec(data, TOKENIZER)
    assert (spec.image_shape, spec.continuous) == ((2, 2, 2), True)
    model = with_latents(prior_of(jnp.array([0.9, 1.1]), spec), TOKENIZER, kind)
    vectors = jnp.broadcast_to(jnp.array([3.0, 2.0]), (1, 3, 2, 2, 2))
    cached = vectors if kind == "plain" else jnp.concatenate([vectors, 0.0 * vectors], axis=-1)
    seen = model.update(KEY, STATE, {"image": cached, "index": jnp.arange(3)[None]}, phase=PHASE)[0].params
    np.testing.assert_allclose(seen, np.broadcast_to([4.0, 1.0], seen.shape), rtol=1e-6)
    images = model.sample(jax.random.split(KEY, 2), model.eval_variables(STATE))
    expected = 3.0 * np.round([0.9 * 0.5 + 1.0, 1.1 * 4.0 - 2.0])
    np.testing.assert_allclose(images, np.broadcast_to(expected, images.shape))
    found = model.encode(jax.random.split(KEY, 1), model.eval_variables(STATE), jnp.full((1, 4, 4, 2), 2.0))
    np.testing.assert_allclose(found, np.broadcast_to([2.0, 1.0], (1, 2, 2, 2)))


def test_latents_that_are_vectors_are_maps_of_one_place():
    vectors = PIXELS._replace(
        spec=ModelSpec((4, 4, 2), latent_shape=(2,)),
        encode=lambda keys, variables, images, cond=None: images[:, 0, 0],
        decode=lambda variables, latents, cond=None: jnp.broadcast_to(latents[:, None, None], (len(latents), 4, 4, 2)),
    )
    spec = latent_spec(data_spec((1, 1, 4), 3), vectors)
    assert spec.image_shape == (1, 1, 2)
    model = with_latents(prior_of(jnp.array([1.0, 2.0]), spec), vectors, "moments")
    variables = model.eval_variables(STATE)
    images = model.sample(jax.random.split(KEY, 2), variables)
    np.testing.assert_allclose(images, np.broadcast_to([1.5, 6.0], (2, 4, 4, 2)))
    np.testing.assert_allclose(model.encode(jax.random.split(KEY, 2), variables, images)[:, 0, 0], [[1.0, 2.0]] * 2)


def test_arrays_of_codes_are_checked():
    np.testing.assert_array_equal(checked_latents([[0, 4]], 5), np.array([[0, 4]], np.int32))
    assert checked_latents([[0, 4]], 5).dtype == np.int32
    assert checked_latents([[0, 4]], None).dtype == np.float32
    for wrong in ([[0.0, 1.0]], [[5]], [[-1]]):
        with pytest.raises(ValueError, match=r"must be codes, which are integers in \[0, 5\)"):
            checked_latents(wrong, 5)


def test_refusals():
    with pytest.raises(
        ValueError, match=r"are 6 codes of shape \(2, 2, 1\), but .* makes 5 codes of shape \(2, 2, 1\)"
    ):
        latent_spec(CODES._replace(latent_levels=6), TOKENIZER)
    with pytest.raises(ValueError, match=r"are 5 codes of shape \(2, 2, 2\), but .* makes no codes of shape"):
        latent_spec(data_spec((2, 2, 2), latent_levels=5), PIXELS)
    with pytest.raises(ValueError, match=r"mean and deviation of shape \(2, 2, 4\) or latents of shape \(2, 2, 2\)"):
        latent_spec(data_spec((2, 2, 1)), TOKENIZER)
    with pytest.raises(ValueError, match="before quantization needs a model with posterior"):
        with_latents(INNER, TOKENIZER._replace(posterior=None), "plain")
    with pytest.raises(ValueError, match="needs a model with decode"):
        with_latents(INNER, PIXELS._replace(decode=None))
    with pytest.raises(ValueError, match=r"shape \(2, 2, 6\).*shape \(2, 2, 4\)"):
        latent_spec(ModelSpec((2, 2, 6)), PIXELS)
    with pytest.raises(ValueError, match=r"deviation of shape \(0, 0, 0\)"):
        latent_spec(ModelSpec((2, 2, 4)), PIXELS._replace(spec=ModelSpec((4, 4, 2))))

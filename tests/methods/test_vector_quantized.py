"""Tokenizers: losses and updates by hand, codes and images, the weight of the adversarial loss, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from specs import data_spec

from configs import fsq, vqgan, vqvae
from jaxgen.adversarial import patches
from jaxgen.core import keys
from jaxgen.core.contract import Env, ModelSpec
from jaxgen.methods.vae import vector_quantized
from jaxgen.nn.patch_discriminator import PatchDiscriminator
from jaxgen.nn.quantizers.residual import ResidualQuantizer
from jaxgen.nn.quantizers.vector_quantizer import VectorQuantizer
from jaxgen.nn.tokenizers import AttentionAutoencoder, StridedAutoencoder, make_tokenizer_network

KEY = keys.root_key(0)
SPEC = data_spec((8, 8, 1), 3)
IMAGES = jax.random.randint(KEY, (4, 8, 8, 1), 0, 256) / 127.5 - 1.0
ONE = {"image": IMAGES[None], "index": jnp.array([[2, 0, 3, 1]])}
TWO = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[2:]), ONE)


def config_of(module=vqvae, **sections):
    """The tiny config, trained by SGD, of four examples a batch."""
    config = module.get_config("tiny")
    config.data.batch_size = 4
    players = [config.optimizer] if "name" in config.optimizer else list(config.optimizer.values())
    for player in players:
        player.update({"name": "sgd", "learning_rate": 0.1, "b1": 0.0, "b2": 0.999, "schedule": "constant"})
    for name, settings in sections.items():
        config[name].update(settings)
    return config


class _Decoder(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, z):
        return nn.Dense(self.outputs, name="conv_out")(jnp.tanh(nn.Dense(5)(z)))


class PatchNetwork(nn.Module):
    """Patches of 2x2 pixels to vectors by one matrix and back by two: a network of tokenizers that compiles at once."""

    image_channels: int
    code_dim: int
    dtype: str = "float32"
    stride = 2

    def setup(self):
        self.encoder, self.decoder = nn.Dense(self.code_dim), _Decoder(4 * self.image_channels)

    def encode(self, x):
        n, h, w, c = x.shape
        patches = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
        return self.encoder(patches.reshape(n, h // 2, w // 2, 4 * c))

    def decode(self, z):
        n, h, w, _ = z.shape
        made = self.decoder(z).reshape(n, h, w, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
        return made.reshape(n, 2 * h, 2 * w, -1)

    def __call__(self, x):
        return self.decode(self.encode(x))


@pytest.fixture
def patch_network(monkeypatch):
    monkeypatch.setattr(vector_quantized, "make_tokenizer_network", lambda section, **given: PatchNetwork(**given))


def run(model, *, after_update=True):
    """A model's start and all that it does with the images, in one program."""

    @jax.jit
    def outputs(key):
        state = model.init(key, ONE)
        variables, example_keys = model.eval_variables(state), jax.random.split(key, 4)
        z, deviation = model.posterior(variables, IMAGES)
        codes = model.encode(example_keys, variables, IMAGES)
        new, metrics = model.update(key, state, ONE) if after_update else (None, None)
        seen = {"z": z, "deviation": deviation, "codes": codes, "decoded": model.decode(variables, codes)}
        return seen | {"state": state, "new": new, "metrics": metrics}

    return outputs(KEY)


LEARNED = {"decay": None, "revive_below": 0.0}


def test_the_loss_is_the_error_and_the_weighted_losses_of_the_codebook(patch_network):
    """With absolute errors; squared ones are those of the golden file."""
    weights = {"codebook_weight": 0.7, "commitment_weight": 0.3, "entropy_weight": 0.2, "entropy_temperature": 0.5}
    config = config_of(tokenizer={"error": "absolute", **weights}, quantizer=LEARNED)
    found = run(vector_quantized.make(config, SPEC, Env()))
    state, new, metrics = (found[name] for name in ("state", "new", "metrics"))
    assert set(state.model_state) == {"batch"}
    z = np.asarray(found["z"], np.float64)
    book = np.asarray(state.params["quantizer"]["codebook"], np.float64)
    distances = np.square(z[..., None, :] - book).sum(-1)
    codes = distances.argmin(-1)
    np.testing.assert_array_equal(found["codes"][..., 0], codes)
    assert np.abs(found["decoded"]).max() < 1.0
    difference = np.asarray(IMAGES) - found["decoded"]
    np.testing.assert_allclose(metrics["loss/reconstruction"], np.abs(difference).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["absolute_error"], np.abs(difference).mean(), rtol=1e-5)
    of_codes = np.square(z - book[codes]).mean()
    share = np.exp(-distances / 0.5) / np.exp(-distances / 0.5).sum(-1, keepdims=True)
    mean = share.mean((0, 1, 2))
    entropy = -(share * np.log(share)).sum(-1).mean() + (mean * np.log(mean + 1e-5)).sum()
    for name, value in {"codebook": of_codes, "commitment": of_codes, "entropy": entropy}.items():
        np.testing.assert_allclose(metrics[f"loss/{name}"], value, rtol=1e-3)
    total = metrics["loss/reconstruction"] + 0.7 * of_codes + 0.3 * of_codes + 0.2 * entropy
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-4)
    counts = np.bincount(codes.reshape(-1), minlength=12) / codes.size
    np.testing.assert_allclose(metrics["codes/perplexity"], np.exp(-(counts * np.log(counts + 1e-30)).sum()), rtol=1e-4)
    assert metrics["codes/used"] == (counts > 0).sum()
    assert not np.allclose(new.params["quantizer"]["codebook"], book)


def test_averages_follow_the_whole_batch_however_it_is_cut(patch_network):
    settings = [config_of(train={"microbatches": n}, quantizer={"revive_below": 0.9}) for n in (1, 2)]
    models = [vector_quantized.make(config, SPEC, Env()) for config in settings]
    quantizer = VectorQuantizer(12, 3, decay=0.8, revive_below=0.9)

    @jax.jit
    def outputs(key):
        state = models[0].init(key, ONE)
        updates = [model.update(key, state, batch) for model, batch in zip(models, (ONE, TWO), strict=True)]
        book = {"codebooks": state.model_state["codebooks"]}
        quantized = quantizer.apply(book, models[0].posterior(models[0].eval_variables(state), IMAGES)[0])
        statistics = quantizer.statistics(quantized, ONE["index"][0], keys.stream(key, "codes"), 4)
        return state, updates, quantized.codes, quantizer.updated(book["codebooks"], statistics)

    state, updates, codes, expected = outputs(KEY)
    assert set(state.params) == {"network"}
    assert (expected["codebook"]["size"] == 1.0).any()  # a code was revived
    for new, metrics in updates:
        assert "loss/codebook" not in metrics
        for name, leaf in expected["codebook"].items():
            np.testing.assert_allclose(new.model_state["codebooks"]["codebook"][name], leaf, atol=1e-5, err_msg=name)
        assert all(not leaf.any() for leaf in jax.tree.leaves(new.model_state["batch"]))
        assert metrics["codes/used"] == len(np.unique(codes))
    start = jax.eval_shape(models[1].init, KEY, TWO)
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, state)


def test_each_codebook_of_a_residual_quantizer_has_codes_of_its_own(patch_network):
    config = config_of()
    config.quantizer = {"name": "residual", "num_codebooks": 2, "num_codes": 6, "code_dim": 3, "decay": 0.8}
    model = vector_quantized.make(config, SPEC, Env())
    assert (model.spec.latent_shape, model.spec.latent_levels, model.spec.code_dim) == ((4, 4, 2), 6, 3)
    found = run(model)
    codes, metrics = np.asarray(found["codes"]), found["metrics"]
    assert codes.shape == (4, 4, 4, 2)
    used = [len(np.unique(codes[..., i])) for i in range(2)]
    np.testing.assert_allclose(metrics["codes/used"], np.mean(used))
    counts = [np.bincount(np.ravel(codes[..., i]), minlength=6) / 64 for i in range(2)]
    entropies = [-(c[c > 0] * np.log(c[c > 0])).sum() for c in counts]
    np.testing.assert_allclose(metrics["codes/perplexity"], np.exp(entropies).mean(), rtol=1e-5)
    for name in ("codebook_0", "codebook_1"):
        states = (found[when].model_state["codebooks"][name]["codebook"]["codes"] for when in ("state", "new"))
        assert not np.allclose(*states)


def test_images_of_codes_and_of_vectors_and_samples_of_uniform_codes(patch_network):
    model = vector_quantized.make(config_of(), SPEC, Env())
    found = run(model, after_update=False)
    variables, codes = model.eval_variables(found["state"]), found["codes"]
    np.testing.assert_array_equal(found["deviation"], 0.0)
    assert (codes.dtype, codes.shape) == (jnp.int32, (4, *model.spec.latent_shape))
    sample_keys = jax.random.split(keys.root_key(5), 3)

    @jax.jit
    def outputs(variables):
        drawn = jax.vmap(lambda key: jax.random.randint(key, (4, 4, 1), 0, 12))(sample_keys)
        clipped = {**variables, "params": jax.tree.map(lambda x: 100.0 * x, variables["params"])}
        of_draws = (model.sample(sample_keys, variables), model.decode(variables, drawn))
        return model.decode(variables, found["z"]), of_draws, model.decode(clipped, codes)

    of_vectors, of_draws, clipped = outputs(variables)
    np.testing.assert_allclose(found["decoded"], of_vectors, atol=1e-6)
    np.testing.assert_allclose(*of_draws, atol=1e-6)
    assert (model.log_prob, dict(model.spec.conditioning)) == (None, {})
    assert np.abs(clipped).max() == 1.0
    with pytest.raises(ValueError, match="was given 'label'"):
        model.encode(jax.random.split(KEY, 4), variables, IMAGES, {"label": jnp.zeros(4, jnp.int32)})


def test_finite_scalars_need_no_codebook_and_have_no_losses_of_one(patch_network):
    model = vector_quantized.make(config_of(fsq, quantizer={"levels": (5, 3)}), SPEC, Env())
    found = run(model)
    state, metrics, z, codes = (found[name] for name in ("state", "metrics", "z", "codes"))
    assert (set(state.params), set(state.model_state)) == ({"network"}, {"batch"})
    assert metrics["loss"] == metrics["loss/reconstruction"]
    z, codes = np.asarray(z), codes[..., 0]
    by_hand = [np.round(np.tanh(z[..., i]) * (levels - 1) * 1.001 / 2) + levels // 2 for i, levels in enumerate((5, 3))]
    np.testing.assert_array_equal(codes, by_hand[0] + 5 * by_hand[1])
    assert metrics["codes/used"] == len(np.unique(codes))
    assert (model.spec.latent_levels, model.spec.code_dim) == (15, 2)


def test_the_adaptive_weight_is_the_ratio_of_gradients_of_the_last_kernel():
    numbers, kernel = np.arange(8.0, dtype=np.float32).reshape(4, 2), np.array([2.0, -1.0], np.float32)

    def decode(params):
        return (numbers * params["decoder"]["conv_out"]["kernel"]).reshape(4, 1, 2, 1)

    def other(images):
        return 3.0 * jnp.sum(images)

    params = {"decoder": {"conv_out": {"kernel": jnp.asarray(kernel)[None]}}, "other": jnp.ones(3)}
    made = patches.Reconstruction(decode(params), None, {}, lambda images: jnp.sum(jnp.square(images)), decode, params)
    own, adversarial = 2.0 * np.square(numbers).sum(0) * kernel, 3.0 * numbers.sum(0)
    expected = np.linalg.norm(own) / (np.linalg.norm(adversarial) + 1e-4)

    @jax.jit
    def balances():
        halves = jax.vmap(lambda _: patches.balance(made, other, axis_name="parts"), axis_name="parts", axis_size=2)
        return [patches.balance(made, other), halves(jnp.zeros(2)), patches.balance(made, lambda x: 0.0 * jnp.sum(x))]

    whole, halves, without = balances()
    np.testing.assert_allclose(whole, expected, rtol=1e-5)
    np.testing.assert_allclose(without, 1e4)
    np.testing.assert_allclose(halves, expected, rtol=1e-5)


def test_the_adversarial_loss_is_weighted_by_gradients_from_its_start_on(patch_network):
    config = config_of()
    config.gan.update({"weight": 0.5, "feature_weight": 0.3, "start_steps": 1, "adaptive": True})
    config.optimizer = {"generator": config.optimizer, "discriminator": config.optimizer}
    config.discriminator.update({"width": 4, "num_halvings": 1, "num_groups": 2})
    model = vector_quantized.make(config, SPEC, Env())
    state, update = jax.jit(model.init)(KEY, ONE), jax.jit(model.update)
    (_, before), later = update(KEY, state, ONE), state._replace(step=state.step + 1)
    new, metrics = update(KEY, later, ONE)
    own = metrics["loss/reconstruction"] + 0.25 * metrics["loss/commitment"]
    adversarial = 0.5 * metrics["adaptive_weight"] * metrics["loss/adversarial"] + 0.3 * metrics["loss/features"]
    np.testing.assert_allclose(metrics["loss/generator"], own + adversarial, rtol=1e-4)
    np.testing.assert_allclose([before["loss/generator"], before["loss/discriminator"]], [own, 0.0], rtol=1e-5)
    tokenizer = vector_quantized._tokenizer(config, SPEC, Env())
    variables = model.eval_variables(state)
    params, codebooks = variables["params"], variables["codebooks"]

    @jax.jit
    def norms(kernel, discriminator):
        vectors = tokenizer.quantize(params, codebooks, model.posterior(variables, IMAGES)[0]).output

        def images(kernel):
            decoder = {**params["network"]["decoder"], "conv_out": {**params["network"]["decoder"]["conv_out"]}}
            decoder["conv_out"]["kernel"] = kernel
            return tokenizer.decode({**params["network"], "decoder": decoder}, vectors)

        def score(kernel):
            return -jnp.mean(tokenizer.discriminator.apply({"params": discriminator}, images(kernel))[0])

        error = jax.grad(lambda kernel: jnp.mean(jnp.square(IMAGES - images(kernel))))(kernel)
        return jnp.linalg.norm(error.reshape(-1)), jnp.linalg.norm(jax.grad(score)(kernel).reshape(-1))

    # The discriminator's update comes first, so that the weight is that of the new one.
    found = norms(params["network"]["decoder"]["conv_out"]["kernel"], new.params["discriminator"])
    np.testing.assert_allclose(metrics["adaptive_weight"], found[0] / (found[1] + 1e-4), rtol=1e-3)


def test_networks_get_the_settings_of_their_sections():
    config = config_of(vqgan)
    config.train.compute_dtype = "bfloat16"
    config.model.update({"stem_channels": 6, "block_channels": (4, 8, 8), "num_res_blocks": 2})
    config.model.decoder_channels = (8, 4, 4)
    tokenizer = vector_quantized._tokenizer(config, ModelSpec((16, 12, 3)), Env(axis_name="i"))
    assert tokenizer.network == AttentionAutoencoder(3, 4, 4, (4, 8, 8), 6, (8, 4, 4), 2, 2, "bfloat16")
    assert tokenizer.discriminator == PatchDiscriminator(4, 1, 2, "bfloat16")
    assert (tokenizer.batch_size, tokenizer.axis_name) == (4, "i")
    assert vector_quantized._grid(tokenizer, ModelSpec((16, 12, 3))) == (4, 3, 1)
    strided = vector_quantized._tokenizer(config_of(model={"num_halvings": 2, "width": 5}), SPEC, Env()).network
    assert (strided, strided.stride) == (StridedAutoencoder(1, 3, 5, 2, 1, "float32"), 4)
    assert vector_quantized.Settings() == ("squared", 0.0, 0.0, 0.0, 0.01)
    residual = vqvae.get_config("residual")
    made = vector_quantized._tokenizer(residual, SPEC, Env()).quantizer
    assert made == ResidualQuantizer(4, 16, 8, 0.95, 1e-5, 0.1)


ATTENTION = {"latent_channels": 4, "block_channels": (4, 8), "num_res_blocks": 1, "num_groups": 2}
STRIDED = {"width": 4, "num_halvings": 1, "num_res_blocks": 1}


@pytest.mark.parametrize(("name", "sizes"), [("AttentionAutoencoder", ATTENTION), ("StridedAutoencoder", STRIDED)])
def test_shapes_of_networks_and_images_that_do_not_fit(name, sizes):
    network = make_tokenizer_network(
        {"name": f"tokenizers.{name}", **sizes}, image_channels=2, code_dim=3, dtype="bfloat16"
    )
    x = jnp.zeros((2, 6, 4, 2))

    def shapes():
        made, variables = network.init_with_output(KEY, x)
        return variables, network.apply(variables, x, method="encode"), made

    variables, z, made = jax.eval_shape(shapes)
    assert (z.shape, made.shape, z.dtype, made.dtype) == ((2, 3, 2, 3), x.shape, jnp.float32, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    with pytest.raises(ValueError, match="multiples of 2"):
        jax.eval_shape(lambda: network.init(KEY, jnp.zeros((1, 5, 4, 2))))


def test_levels_of_the_decoder_are_as_many_as_of_the_encoder_and_have_widths_of_their_own():
    section = {"name": "tokenizers.AttentionAutoencoder", **ATTENTION, "stem_channels": 6, "decoder_channels": (2, 6)}
    network = make_tokenizer_network(section, image_channels=2, code_dim=3, dtype="float32")
    params = jax.eval_shape(lambda: network.init(KEY, jnp.zeros((1, 4, 4, 2))))["params"]
    assert params["encoder"]["conv_in"]["kernel"].shape == (3, 3, 2, 6)
    assert params["encoder"]["conv_out"]["kernel"].shape == (3, 3, 8, 4)
    assert params["decoder"]["conv_in"]["kernel"].shape == (3, 3, 4, 6)
    assert params["decoder"]["conv_out"]["kernel"].shape == (3, 3, 2, 2)
    for wrong, sentence in (
        ((4, 4, 4), "must have as many levels as block_channels"),
        ((4, 5), "multiples of num_gro"),
    ):
        with pytest.raises(ValueError, match=sentence):
            jax.eval_shape(lambda: network.clone(decoder_channels=wrong).init(KEY, jnp.zeros((1, 4, 4, 2))))  # noqa: B023


def test_strided_networks_compute_in_their_type():
    sizes = {"name": "tokenizers.StridedAutoencoder", **STRIDED}
    low, full = (make_tokenizer_network(sizes, image_channels=2, code_dim=3, dtype=t) for t in ("bfloat16", "float32"))
    rng = np.random.default_rng(0)  # whose numbers need no compilation
    x = jnp.asarray(rng.normal(size=(2, 6, 4, 2)), jnp.float32)

    @jax.jit
    def outputs():
        start = full.init(KEY, x)  # for its shapes
        params = jax.tree.map(
            lambda p: np.float32(rng.normal(size=p.shape) / max(np.prod(p.shape[:-1]), 4) ** 0.5), start
        )
        return low.apply(params, x), full.apply(params, x)

    ours, exact = outputs()
    assert 1e-4 < np.abs(ours - exact).max() / np.std(exact) < 0.3


@pytest.mark.parametrize(
    ("module", "sections", "sentence"),
    [
        (vqvae, {"tokenizer": {"codebook_weight": 1.0}}, r"codebook_weight is 1\.0, but has no effect: the quant"),
        (fsq, {"tokenizer": {"commitment_weight": 1.0}}, r"commitment_weight is 1\.0, .* has the losses: none"),
        (fsq, {"tokenizer": {"entropy_weight": 1.0}}, r"entropy_weight is 1\.0, but has no effect"),
        (vqvae, {"quantizer": LEARNED}, r"tokenizer\.codebook_weight is 0, but nothing else trains the codebook"),
        (vqvae, {"tokenizer": {"commitment_weight": -1.0}}, r"commitment_weight is -1\.0, but must be at least 0"),
        (vqvae, {"tokenizer": {"entropy_temperature": 1.0}}, r"entropy_temperature is 1\.0, but has no effect without"),
        (vqgan, {"tokenizer": {"entropy_temperature": 0.0}}, r"entropy_temperature is 0\.0, but must be positive"),
        (vqvae, {"tokenizer": {"error": "cubed"}}, r"tokenizer\.error is 'cubed', but must be of type"),
        (vqvae, {"gan": {"adaptive": True}}, r"gan\.adaptive is True, but has no effect without a gan\.weight above 0"),
        (vqvae, {"model": {"name": "Absent"}}, r"model\.name is 'Absent', but must be one of tok.*, tok"),
    ],
)  # fmt: skip
def test_refusals(module, sections, sentence):
    with pytest.raises(ValueError, match=sentence):
        vector_quantized.make(config_of(module, **sections), SPEC, Env())

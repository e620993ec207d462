"""DCGAN: its losses and batch statistics put together by hand, latents by example, official sizes, refusals."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import GAMES, assert_close, assert_sections_name_themselves, descend, norms_of, slope, waves
from flax import linen as nn
from specs import data_spec

from configs import dcgan as dcgan_config
from jaxgen.core import keys, trees
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, ModelSpec
from jaxgen.losses.adversarial import LOSSES
from jaxgen.methods.gan import dcgan
from jaxgen.methods.gan.dcgan import make
from jaxgen.nn.dcgan import Discriminator, Generator

KEY = keys.root_key(0)
SPEC = data_spec((8, 8, 1), 3)
LATENT_DIM = 8


def batch_of(microbatches, size=8):
    count = microbatches * size
    image = jax.random.uniform(KEY, (microbatches, size, 8, 8, 1), minval=-1.0)
    index = jnp.arange(count, dtype=jnp.int32).reshape(microbatches, size)
    return {"image": image, "index": index, "label": index % 3}


def build(**settings):
    config = dcgan_config.get_config("tiny")
    config.gan.update(settings)
    for section in config.optimizer.values():
        section.name, section.learning_rate = "sgd", 0.1
    return make(config, SPEC, Env())


@jax.jit
def latents_of(step_key, index):
    return jax.vmap(lambda key: jax.random.normal(key, (LATENT_DIM,)))(keys.per_example(step_key, index))


def test_one_update_by_hand():
    """The discriminator's loss is of the old parameters, and the generator's of the new discriminator."""
    model, batch = build(), batch_of(1)
    generator, discriminator = Generator((8, 8, 1), width=4, base_side=2), Discriminator(width=4, base_side=2)
    state = jax.jit(model.init)(KEY, batch)
    after, metrics = jax.jit(model.update)(KEY, state, batch)

    def generate(stream):
        variables = {"params": state.params["generator"], "batch_stats": state.model_state["generator"]}
        latents = latents_of(keys.stream(KEY, stream), batch["index"][0])
        return generator.apply(variables, latents, train=True, mutable="batch_stats")

    def logits(params, images):
        variables = {"params": params, "batch_stats": state.model_state["discriminator"]}
        return discriminator.apply(variables, images, train=True, mutable="batch_stats")[0]

    fake, _ = generate("discriminator")
    real_logits = logits(state.params["discriminator"], batch["image"][0])
    fake_logits = logits(state.params["discriminator"], fake)
    expected = jnp.mean(jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits))
    np.testing.assert_allclose(metrics["loss/discriminator"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["logits/real"], jnp.mean(real_logits), rtol=1e-4)

    fake, updated = generate("generator")
    expected = jnp.mean(jax.nn.softplus(-logits(after.params["discriminator"], fake)))
    np.testing.assert_allclose(metrics["loss/generator"], expected, rtol=1e-5)
    # The generator's statistics move once, in its own turn.
    chex.assert_trees_all_close(after.model_state["generator"], updated["batch_stats"], rtol=1e-5)


def test_latents_hang_on_the_index_of_an_example():
    model, batch = build(), batch_of(1)
    order = jnp.array([3, 1, 0, 2, 7, 6, 5, 4])
    permuted = {name: value[:, order] for name, value in batch.items()}
    state = jax.jit(model.init)(KEY, batch)
    update = jax.jit(model.update)
    chex.assert_trees_all_close(update(KEY, state, batch), update(KEY, state, permuted), atol=1e-5)
    moved = {**batch, "index": batch["index"] + 8}
    assert not np.allclose(update(KEY, state, batch)[1]["logits/fake"], update(KEY, state, moved)[1]["logits/fake"])


def test_every_critic_update_has_data_of_its_own():
    model, batch = build(n_critic=2), batch_of(2)
    assert model.microbatches == 2
    state = jax.jit(model.init)(KEY, batch)
    update = jax.jit(model.update)
    after, _ = update(KEY, state, batch)
    for k in range(2):
        changed = {**batch, "image": batch["image"].at[k].multiply(0.5)}
        other, _ = update(KEY, state, changed)
        gap = trees.map_named(lambda _, a, b: jnp.abs(a - b).max(), after.params, other.params)["discriminator"]
        assert max(jax.tree.leaves(gap)) > 1e-6
    with pytest.raises(ValueError, match="takes 2"):
        model.update(KEY, state, batch_of(1))


def test_sample_decodes_standard_normal_latents():
    model = build()
    variables = model.eval_variables(jax.jit(model.init)(KEY, batch_of(1)))
    sample_keys = jax.random.split(KEY, 8)
    latents = jax.vmap(lambda key: jax.random.normal(key, (LATENT_DIM,)))(sample_keys)
    np.testing.assert_array_equal(model.sample(sample_keys, variables), model.decode(variables, latents))


def test_a_conditional_model_draws_the_class_asked_for_and_judges_by_it():
    model, batch = build(class_conditional=True), batch_of(1)
    state = jax.jit(model.init)(KEY, batch)
    same_key = jnp.stack([KEY, KEY])
    images = model.sample(same_key, model.eval_variables(state), {"label": jnp.array([0, 1])})
    assert not np.allclose(images[0], images[1], atol=1e-6)
    update = jax.jit(model.update)
    relabelled = {**batch, "label": (batch["label"] + 1) % 3}
    assert update(KEY, state, batch)[1]["logits/real"] != update(KEY, state, relabelled)[1]["logits/real"]


def test_the_average_is_of_the_generator_alone():
    config = dcgan_config.get_config("tiny")
    model = build_model(config, SPEC)
    batch = {**batch_of(1), "image": jnp.zeros((1, 8, 8, 8, 1), jnp.uint8)}
    names = jax.eval_shape(model.init, KEY, batch).ema
    assert all("/generator/" in name for name in names)
    assert any(name.startswith("model_state/") for name in names)


def test_the_papers_setting_has_the_official_sizes():
    model = make(dcgan_config.get_config("celeba"), ModelSpec((64, 64, 3)), Env())
    batch = {"image": jnp.zeros((1, 2, 64, 64, 3)), "index": jnp.zeros((1, 2), jnp.int32)}
    params = jax.eval_shape(model.init, KEY, batch).params
    assert {name: trees.count(tree) for name, tree in params.items()} == {
        "generator": 3_576_704,
        "discriminator": 2_765_568,
    }


def test_refusals():
    with pytest.raises(ValueError, match=r"non_saturating.*wasserstein"):
        build(loss="non_saturing")
    config = dcgan_config.get_config("tiny")
    config.gan.class_conditional = True
    with pytest.raises(ValueError, match=r"gan\.class_conditional is True, but the data has no classes"):
        make(config, SPEC._replace(conditioning={}), Env())
    config.discriminator.update({"batch_norm": False, "momentum": 0.5})
    with pytest.raises(
        ValueError, match=r"discriminator\.momentum is 0\.5, but has no effect without .*batch_norm=True"
    ):
        make(config, SPEC, Env())
    config.discriminator.update({"batch_norm": True})
    make(config, SPEC, Env())
    with pytest.raises(ValueError, match=r"gan\.n_critic is 0, but must be at least 1"):
        build(n_critic=0)


# Whole updates by hand: networks that are formulas, everything else in NumPy.
G_WEIGHTS, D_WEIGHTS = waves(LATENT_DIM, 8, phase=0.3) / 2, waves(8, phase=2.0)
G_CLASSES, D_CLASSES = waves(3, phase=1.0), waves(3, phase=0.1)
RATES = {"generator": 0.5, "discriminator": 0.25}


class FormulaGenerator(Generator):
    """Depends on latent, class, the batch's mean latent (the running one unless `train`), and keeps the latter."""

    @nn.compact
    def __call__(self, z, label=None, *, train):
        scale, stat = (
            self.param("scale", nn.initializers.normal(), ()),
            self.variable("batch_stats", "mean", jnp.zeros, ()),
        )
        mean = jnp.mean(z) if train else stat.value
        shift = jnp.zeros(len(z)) if label is None else jnp.float32(G_CLASSES)[label]
        if train:
            stat.value = 0.75 * stat.value + 0.25 * mean
        return jnp.tanh(scale * (z @ jnp.float32(G_WEIGHTS) + shift[:, None]) + mean).reshape(-1, *self.image_shape)


class FormulaDiscriminator(Discriminator):
    """Depends on image, class, the mean of the batch, and the running mean; without it if `batch_norm` is off."""

    @nn.compact
    def __call__(self, x, label=None, *, train):
        scale = self.param("scale", nn.initializers.normal(), ())
        shift = jnp.zeros(len(x)) if label is None else jnp.float32(D_CLASSES)[label]
        logits = scale * (x.reshape(len(x), -1) @ jnp.float32(D_WEIGHTS) + shift)
        if not self.batch_norm:
            return logits
        stat = self.variable("batch_stats", "mean", jnp.zeros, ())
        logits = logits + (3.0 * jnp.mean(x) if train else 0.0) + 2.0 * stat.value
        if train:
            stat.value = 0.75 * stat.value + 0.25 * jnp.mean(x)
        return logits


def generate(scale, z, shift, mean):
    return np.tanh(scale * (z @ G_WEIGHTS + shift[:, None]) + mean)


def judge(scale, x, shift, running, norm):
    return scale * (x @ D_WEIGHTS + shift) + norm * (3.0 * x.mean() + 2.0 * running)


def play_by_hand(batch, classes, norm, *, g=0.7, d=0.4, old=0.6, running=-0.8):
    """Two updates of the discriminator on two microbatches each, one of the generator, from these numbers on."""
    x = np.array(batch["image"], np.float64).reshape(4, 3, 8)
    g_shift, d_shift = (classes * table[np.array(batch["label"])] for table in (G_CLASSES, D_CLASSES))
    make_loss, judge_loss = GAMES["least_squares"]
    losses, logits = [], []

    def latents(stream, k):
        return np.array(latents_of(keys.stream(KEY, stream), batch["index"][k]), np.float64)

    for critic in ((0, 1), (2, 3)):
        seen = []  # the logits of real and generated images, by the discriminator's scale
        for k in critic:
            z = latents("discriminator", k)
            fake = generate(g, z, g_shift[k], z.mean())
            between = 0.75 * running + 0.25 * x[k].mean()
            real_at = partial(judge, x=x[k], shift=d_shift[k], running=running, norm=norm)
            fake_at = partial(judge, x=fake, shift=d_shift[k], running=between, norm=norm)
            seen.append(lambda d, pair=(real_at, fake_at): [logits_at(d) for logits_at in pair])
            running = 0.75 * between + 0.25 * fake.mean()

        def of_discriminator(p, seen=seen):
            return np.mean([judge_loss(*both(p["d"])).mean() for both in seen])

        losses.append(of_discriminator({"d": d}))
        logits += [np.mean(both(d), axis=1) for both in seen]
        d = descend({"d": np.array(d)}, slope(of_discriminator, {"d": np.array(d)}), RATES["discriminator"])["d"]
    drawn = {k: latents("generator", k) for k in (2, 3)}

    def of_generator(p):
        fake = {k: generate(p["g"], z, g_shift[k], z.mean()) for k, z in drawn.items()}
        return np.mean([make_loss(judge(d, fake[k], d_shift[k], running, norm)).mean() for k in fake])

    for z in drawn.values():
        old = 0.75 * old + 0.25 * z.mean()
    after = {"d": d, "g": descend({"g": g}, slope(of_generator, {"g": np.array(g)}), RATES["generator"])["g"]}
    metrics = {"loss/discriminator": np.mean(losses), "loss/generator": of_generator({"g": g})}
    metrics |= dict(zip(("logits/real", "logits/fake"), np.mean(logits, axis=0), strict=True))
    return after, {"generator": {"mean": old}, "discriminator": {"mean": running}}, metrics


@pytest.mark.parametrize(("classes", "norm"), [(True, True), (False, True), (True, False)])
def test_an_update_of_formulas_by_hand(monkeypatch, classes, norm):
    """Real images are judged before generated ones; a player's turn moves the batch statistics of its own network."""
    monkeypatch.setattr(dcgan, "Generator", FormulaGenerator)
    monkeypatch.setattr(dcgan, "Discriminator", FormulaDiscriminator)
    config = dcgan_config.get_config("tiny")
    config.gan.update({"n_critic": 2, "loss": "least_squares", "class_conditional": classes})
    config.train.microbatches, config.discriminator.batch_norm = 2, norm
    for name, section in config.optimizer.items():
        section.update({"name": "sgd", "learning_rate": RATES[name], "b1": 0.0})
    model = make(config, SPEC._replace(image_shape=(2, 2, 2)), Env())
    assert (model.microbatches, model.spec) == (4, data_spec((2, 2, 2), 3 * classes, latent_shape=(LATENT_DIM,)))
    index = jnp.array([[5, 2, 9], [1, 0, 7], [3, 11, 4], [8, 6, 10]])
    batch = {"image": jax.random.uniform(KEY, (4, 3, 2, 2, 2), minval=-0.5), "index": index, "label": index % 3}
    start = {"generator": {"scale": jnp.array(0.7)}, "discriminator": {"scale": jnp.array(0.4)}}
    stats = {"generator": {"mean": jnp.array(0.6)}, "discriminator": {"mean": jnp.array(-0.8)} if norm else {}}
    state = jax.eval_shape(model.init, KEY, batch)
    assert jax.tree.structure((state.params, state.model_state)) == jax.tree.structure((start, stats))
    state = state._replace(step=jnp.int32(0), params=start, model_state=stats)
    after, metrics = jax.jit(model.update)(KEY, state, batch)

    params, expected_stats, expected = play_by_hand(batch, classes, norm)
    assert_close({k: metrics[k] for k in expected}, expected)
    assert_close({"d": after.params["discriminator"]["scale"], "g": after.params["generator"]["scale"]}, params)
    for name in ("generator", "discriminator") if norm else ("generator",):
        assert_close(after.model_state[name], expected_stats[name])

    # Images are normalized by the running mean, whatever the batch, and are of the class that is asked for.
    cond = {"label": jnp.array([2, 0])} if classes else None
    sample_keys = jax.random.split(KEY, 2)
    z = keys.normal(sample_keys, (LATENT_DIM,))
    mean = expected_stats["generator"]["mean"]
    images = generate(params["g"], np.array(z, np.float64), classes * G_CLASSES[[2, 0]], mean).reshape(2, 2, 2, 2)
    variables = model.eval_variables(after)
    np.testing.assert_allclose(model.sample(sample_keys, variables, cond), images, rtol=1e-4)
    np.testing.assert_allclose(model.decode(variables, z, cond), images, rtol=1e-4)


def test_networks_get_their_settings_and_the_run():
    config = dcgan_config.get_config("tiny")
    config.generator.update({"width": 3, "momentum": 0.5})
    config.discriminator.update({"width": 5, "batch_norm": False})
    config.train.compute_dtype = "bfloat16"
    networks = dcgan._networks(config, dcgan.Settings(7, "hinge"), SPEC, Env(axis_name="shards"))
    shared = {"base_side": 2, "num_classes": 3, "axis_name": "shards", "dtype": "bfloat16"}
    assert networks.generator == Generator((8, 8, 1), width=3, momentum=0.5, **shared)
    assert networks.discriminator == Discriminator(width=5, batch_norm=False, **shared)
    assert (networks.loss, networks.settings.latent_dim) == (LOSSES["hinge"], 7)
    assert dcgan.Settings() == (100, "non_saturating", 1, False)


def test_the_start_the_norms_and_the_names_of_sections(monkeypatch):
    config, spec = dcgan_config.get_config("tiny"), SPEC._replace(image_shape=(2, 2, 2))
    sections = ("gan", "generator", "discriminator", "optimizer.generator", "optimizer.discriminator")
    assert_sections_name_themselves(make, config, spec, *sections)
    monkeypatch.setattr(dcgan, "Generator", FormulaGenerator)
    monkeypatch.setattr(dcgan, "Discriminator", FormulaDiscriminator)
    batch = {"image": jnp.ones((1, 3, 2, 2, 2)), "index": jnp.arange(3)[None], "label": jnp.arange(3)[None]}
    assert norms_of(make, config, spec, batch) == {"generator/scale", "discriminator/scale"}
    config.gan.class_conditional = True
    model = make(config, spec, Env())
    state = model.init(KEY, batch)
    generator = FormulaGenerator((2, 2, 2)).init(keys.stream(KEY, "generator"), jnp.zeros((3, LATENT_DIM)), train=False)
    judged = FormulaDiscriminator().init(keys.stream(KEY, "discriminator"), batch["image"][0], train=False)
    np.testing.assert_allclose(state.params["generator"]["scale"], generator["params"]["scale"], rtol=1e-6)
    np.testing.assert_allclose(state.params["discriminator"]["scale"], judged["params"]["scale"], rtol=1e-6)
    assert state.model_state == {"generator": {"mean": 0.0}, "discriminator": {"mean": 0.0}}  # init normalizes nothing


def test_the_defaults_are_these_and_no_others():
    assert dcgan.Settings() == (100, "non_saturating", 1, False)

"""Adversarial training beside another objective: a formula in the place of the few-step model, refusals."""

import formula_players as formulas
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from specs import data_spec

from configs import post_training as post_training_config
from jaxgen.adversarial.builder import Settings
from jaxgen.core import conditioning, keys
from jaxgen.core.config import Section
from jaxgen.core.contract import CONSTANT, Env, GenerativeModel, Phase, TrainState
from jaxgen.methods.denoising import consistency
from jaxgen.methods.gan import post_training
from jaxgen.methods.gan.post_training import PostTraining, make

KEY = keys.root_key(0)
SPEC = data_spec((2, 2, 1), 3)
RATE = 0.5


def formula(config, spec, env):
    """A model whose samples are tanh(w + noise + class), and whose objective is the distance of w to the data."""
    assert config.optimizer.learning_rate == RATE
    assert env.norms_depth == 1

    def init(key, batch, frozen=()):
        return TrainState(jnp.zeros((), jnp.int32), {"w": batch["image"][0, 0]}, (), {}, frozen=frozen)

    def sample(sample_keys, variables, cond=None):
        label = conditioning.complete(spec.conditioning, cond, len(sample_keys))["label"]
        return jnp.tanh(variables["w"][None] + keys.normal(sample_keys, (2, 2, 1)) + label[:, None, None, None])

    def objective(context, params, model_state, batch):
        assert model_state == {}
        loss = (1.0 + context.step) * jnp.mean((params["w"] - jnp.mean(batch["image"], axis=0)) ** 2)
        return loss, (model_state, {"distance": loss})

    return GenerativeModel(spec, init, None, sample, lambda state: state.params, objective=objective)


def build(monkeypatch, *, make_inner=formula, env=Env(norms_depth=1), compute_dtype="float32", **settings):
    monkeypatch.setattr(consistency, "make", make_inner)
    config = post_training_config.get_config("tiny")
    config.train.compute_dtype = compute_dtype
    config.gan.update(settings)
    config.discriminator = ConfigDict({"name": "mlp.Discriminator", "hidden": (4,)})
    for section in config.optimizer.values():
        section.update({"name": "sgd", "learning_rate": RATE, "b1": 0.0, "b2": 0.999, "warmup_steps": 0})
        section.schedule = "constant"
    return make(Section(config.to_dict()), SPEC, env)


def test_the_generator_descends_on_its_objective_and_from_a_step_on_on_the_adversarial_loss(monkeypatch):
    model = build(monkeypatch, weight="piecewise(boundaries=(1,), values=(0.0, 0.5))", terms=(), loss="hinge")
    image = jax.random.uniform(KEY, (1, 4, 2, 2, 1), minval=-1.0)
    batch = {"image": image, "index": jnp.arange(4)[None], "label": jnp.array([[0, 2, 1, 1]])}
    state = model.init(KEY, batch)
    assert set(state.params) == {"generator", "discriminator"}
    np.testing.assert_array_equal(state.params["generator"]["w"], image[0, 0])
    update = jax.jit(model.update)
    first, metrics = update(KEY, state, batch)
    gap = np.asarray(image[0, 0] - image[0].mean(0))
    np.testing.assert_allclose(metrics["loss/beside"], np.mean(gap**2), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/generator"], metrics["distance"], rtol=1e-6)
    np.testing.assert_allclose(first.params["generator"]["w"], image[0, 0] - RATE * gap * 2 / 4, rtol=1e-5)
    assert not np.allclose(first.params["discriminator"]["mlp"]["out"]["kernel"],
                           state.params["discriminator"]["mlp"]["out"]["kernel"])  # fmt: skip

    # In the second step, the generator's loss is half of -D of the samples of this step's keys beside the objective.
    second, metrics = update(KEY, first, batch)
    example_keys = keys.per_example(keys.stream(KEY, "generator"), batch["index"][0])
    fake = formula_samples(example_keys, first.params["generator"]["w"], batch["label"][0])
    network = second.params["discriminator"]["mlp"]
    pixels = jnp.concatenate([fake.reshape(4, -1), jax.nn.one_hot(batch["label"][0], 3)], axis=1)
    hidden = jax.nn.relu(pixels @ network["hidden_0"]["kernel"] + network["hidden_0"]["bias"][None])
    logits = hidden @ network["out"]["kernel"] + network["out"]["bias"][None]
    np.testing.assert_allclose(metrics["loss/generator"], metrics["distance"] - 0.5 * logits.mean(), rtol=1e-5)

    variables = model.eval_variables(second)
    np.testing.assert_array_equal(variables["w"], second.params["generator"]["w"])
    label = jnp.array([1, 0])
    expected = formula_samples(jax.random.split(KEY), variables["w"], label)
    np.testing.assert_allclose(model.sample(jax.random.split(KEY), variables, {"label": label}), expected, rtol=1e-6)
    assert model.objective is None


def formula_samples(sample_keys, w, label):
    return jnp.tanh(w[None] + keys.normal(sample_keys, (2, 2, 1)) + label[:, None, None, None])


def test_refusals_and_defaults(monkeypatch):
    assert PostTraining("a") == ("a", "non_saturating", 1.0, (), (), 1, 1.0)
    with pytest.raises(ValueError, match=r"gan\.latent_dim is not a setting; gan takes beside, loss, weight"):
        build(monkeypatch, latent_dim=3)
    with pytest.raises(ValueError, match=r"gan\.beside is 'denoising\.consistancy', .* Did you mean"):
        build(monkeypatch, beside="denoising.consistancy")
    monkeypatch.setattr(consistency, "make", lambda *given: formula(*given)._replace(objective=None))
    config = post_training_config.get_config("tiny")
    config.optimizer.generator.learning_rate = RATE
    with pytest.raises(ValueError, match=r"beside denoising\.consistency .*needs a model with objective"):
        make(Section(config.to_dict()), SPEC, Env(norms_depth=1))


def test_all_settings_of_the_adversarial_part_have_their_effect(monkeypatch):
    """Those of the section, in the place of the same ones of a GAN; the discriminator has those of the run."""
    seen = {}
    original = post_training.make_training

    def record(players, rules, *rest):
        seen["rules"] = rules
        return original(players, rules, *rest)

    def make_network(section, **given):
        seen["network"] = given
        return formulas.Discriminator(**given)

    monkeypatch.setattr(post_training, "make_training", record)
    monkeypatch.setattr(post_training, "make_discriminator", make_network)
    settings = {"loss": "hinge", "weight": 0.3, "terms": ("r1(every_steps=2)",), "augment": "cutout"}
    settings |= {"n_critic": 3, "top_share": 0.5}
    model = build(monkeypatch, env=Env(norms_depth=1, axis_name="shards"), compute_dtype="bfloat16", **settings)
    assert seen["rules"] == Settings(**settings)
    assert seen["network"] == {"num_classes": 3, "axis_name": "shards", "dtype": "bfloat16"}
    assert model.microbatches == 3
    assert [model.phase(step) for step in range(3)] == [Phase(("discriminator",)), CONSTANT, Phase(("discriminator",))]


def test_the_other_model_reads_what_is_frozen_and_networks_start_by_keys_of_their_own(monkeypatch):
    """Its weights start at what is frozen; its samples have it added, and they are those that are discriminated."""

    def with_frozen(config, spec, env):
        inner = formula(config, spec, env)

        def init(key, batch, frozen=()):
            return inner.init(key, batch)._replace(params={"w": frozen["shift"] + jax.random.uniform(key)})

        return inner._replace(init=init, eval_variables=lambda state: {"w": state.params["w"] + state.frozen["shift"]})

    monkeypatch.setattr(post_training, "make_discriminator", lambda section, **given: formulas.Discriminator(**given))
    model = build(monkeypatch, make_inner=with_frozen, terms=())
    batch = {"image": jnp.zeros((1, 4, 2, 2, 2)), "index": jnp.arange(4)[None], "label": jnp.array([[0, 2, 1, 1]])}
    frozen = {"shift": jnp.full((2, 2, 2), 0.3)}
    state = model.init(KEY, batch, frozen)
    np.testing.assert_allclose(state.params["generator"]["w"], frozen["shift"] + jax.random.uniform(KEY), rtol=1e-6)
    _, metrics = jax.jit(model.update)(KEY, state, batch)
    own = keys.per_example(keys.stream(KEY, "discriminator"), batch["index"][0])
    w = state.params["generator"]["w"] + frozen["shift"]
    fake = jnp.tanh(w[None] + keys.normal(own, (2, 2, 1)) + batch["label"][0][:, None, None, None])
    network = formulas.Discriminator(num_classes=3)
    stats = {"batch_stats": {"mean": jnp.zeros(())}}  # of real images, which are zero
    critique, _ = network.apply(
        {"params": state.params["discriminator"], **stats}, fake, batch["label"][0], train=True,
        keys=keys.fold_each(own, "discriminate_fake"), mutable=["batch_stats"],
    )  # fmt: skip
    np.testing.assert_allclose(metrics["logits/fake"], critique.logits.mean(), rtol=1e-5)
    np.testing.assert_allclose(model.eval_variables(state)["w"], w, rtol=1e-6)

"""DCGAN: its losses and batch statistics put together by hand, latents by example, official sizes, refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dcgan as dcgan_config
from jaxgen.core import keys, trees
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, ModelSpec
from jaxgen.methods.gan.dcgan import make
from jaxgen.nn.dcgan import Discriminator, Generator

KEY = keys.root_key(0)
SPEC = ModelSpec((8, 8, 1), num_classes=3)
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
    with pytest.raises(ValueError, match="no classes"):
        make(config, SPEC._replace(num_classes=0), Env())

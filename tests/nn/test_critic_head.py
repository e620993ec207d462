"""The last layers of discriminators: logits, projections, scores of classes, embeddings; with and without classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn.adversarial import make_discriminator, make_generator
from jaxgen.nn.critic_head import CriticHead
from jaxgen.nn.layers import GLOROT
from jaxgen.nn.spectral_norm import PowerIteration

KEY = jax.random.key(0)
FEATURES = jax.random.normal(KEY, (4, 6))
LABEL = jnp.array([2, 0, 1, 2])


def run(head, label=LABEL, features=FEATURES):
    variables = head.init(KEY, features, label, train=False)
    variables = {**variables, "params": jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])}  # no bias is zero
    return variables["params"], head.apply(variables, features, label, train=False)


def unit(x):
    x = np.asarray(x)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def plain_logits(params):
    return np.asarray(FEATURES @ params["out"]["kernel"])[:, 0] + np.asarray(params["out"]["bias"])


@pytest.mark.parametrize("head", [CriticHead(), CriticHead(num_classes=3, conditioning="none")])
def test_without_conditioning_there_is_a_logit_only(head):
    params, critique = run(head, LABEL if head.num_classes else None)
    assert set(params) == {"out"}
    np.testing.assert_allclose(critique.logits, plain_logits(params), rtol=1e-5)
    np.testing.assert_array_equal(critique.features, FEATURES)
    assert critique.classes is critique.embedding is None


def test_a_projection_adds_the_product_of_features_and_class():
    params, critique = run(CriticHead(num_classes=3))
    vectors = np.asarray(params["label"]["embedding"])[np.asarray(LABEL)]
    expected = plain_logits(params) + np.sum(vectors * np.asarray(FEATURES), axis=1)
    np.testing.assert_allclose(critique.logits, expected, rtol=1e-5)
    assert critique.classes is critique.embedding is None


def test_a_classifier_scores_all_classes():
    params, critique = run(CriticHead(num_classes=3, conditioning="classifier"))
    assert set(params["classes"]) == {"kernel"}
    np.testing.assert_allclose(critique.classes, FEATURES @ params["classes"]["kernel"], rtol=1e-5)
    np.testing.assert_allclose(critique.logits, plain_logits(params), rtol=1e-5)


def test_cosines_are_between_an_embedding_and_vectors_of_the_classes():
    params, critique = run(CriticHead(num_classes=3, conditioning="cosine", embedding_dim=5))
    embedding = unit(np.asarray(FEATURES @ params["embedding"]["kernel"]) + np.asarray(params["embedding"]["bias"]))
    np.testing.assert_allclose(critique.embedding, embedding, atol=1e-6)
    np.testing.assert_allclose(critique.classes, embedding @ unit(params["proxies"]["embedding"]).T, atol=1e-6)


@pytest.mark.parametrize("conditioning", ["projection", "classifier", "cosine"])
def test_all_layers_are_spectrally_normalized_or_none(conditioning):
    """Twice the weights are the same function then, but for biases."""
    settings = {"num_classes": 3, "conditioning": conditioning, "embedding_dim": 5, "use_bias": False}
    head = CriticHead(power_iteration=PowerIteration(stores_v=False), **settings)
    variables = head.init(KEY, FEATURES, LABEL, train=False)
    assert set(variables["spectral"]) == set(variables["params"])
    assert not any(name.endswith("bias") for name in trees.named_leaves(variables["params"]))
    twice = {**variables, "params": jax.tree.map(lambda leaf: 2.0 * leaf, variables["params"])}
    one, other = (head.apply(v, FEATURES, LABEL, train=False) for v in (variables, twice))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)
    _, updated = head.apply(variables, FEATURES, LABEL, train=True, mutable=["spectral"])
    assert not np.allclose(updated["spectral"]["out"]["sigma"], 1.0)
    assert "spectral" not in CriticHead(**settings).init(KEY, FEATURES, LABEL, train=False)


def test_layers_start_as_they_are_told_to():
    head = CriticHead(num_classes=3, conditioning="cosine", kernel_init=jax.nn.initializers.constant(0.25))
    params = head.init(KEY, FEATURES, LABEL, train=False)["params"]
    kernels = {name: leaf for name, leaf in trees.named_leaves(params).items() if not name.endswith("bias")}
    assert len(kernels) == 3
    assert all((leaf == 0.25).all() for leaf in kernels.values())
    default = CriticHead().init(KEY, FEATURES, train=False)["params"]["out"]["kernel"]
    rng = jax.random.key(1)
    assert jnp.abs(default).max() <= np.sqrt(6.0 / 7.0) >= jnp.abs(GLOROT.kernel()(rng, (6, 1))).max()


def test_outputs_are_float32():
    head = CriticHead(num_classes=3, conditioning="cosine", dtype=jnp.bfloat16)
    _, critique = run(head, features=FEATURES.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in critique} == {jnp.dtype("float32")}


def test_labels_and_classes_go_together():
    with pytest.raises(ValueError, match="needs a label for each image"):
        run(CriticHead(num_classes=3), None)
    with pytest.raises(ValueError, match="was given labels: set num_classes"):
        run(CriticHead())
    assert run(CriticHead(num_classes=3, conditioning="classifier"), None)[1].classes.shape == (4, 3)
    with pytest.raises(ValueError, match="embedding_dim is 0, but must be at least 1"):
        run(CriticHead(num_classes=3, conditioning="cosine", embedding_dim=0))


@pytest.mark.parametrize("module", ["dcgan", "biggan"])
def test_players_are_networks_of_their_kind(module):
    given = {"num_classes": 0, "axis_name": None, "dtype": jnp.float32}
    with pytest.raises(ValueError, match=rf"discriminator\.name of {module} is 'Generator', but must be one of Discri"):
        make_discriminator({"name": f"{module}.Generator"}, **given)
    with pytest.raises(ValueError, match=rf"generator\.name of {module} is 'Discriminator', but must be one of Gener"):
        make_generator({"name": f"{module}.Discriminator"}, image_shape=(8, 8, 1), latent_dim=3, **given)
    with pytest.raises(ValueError, match=r"discriminator\.name of unet is 'UNet', but"):
        make_discriminator({"name": "unet.UNet"}, **given)

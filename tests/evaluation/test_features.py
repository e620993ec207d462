import hashlib
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from halves import TINY, halves
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from jaxgen.core import keys, trees
from jaxgen.evaluation import features
from jaxgen.evaluation.features import (
    ClassifierSettings,
    TrainingImages,
    average_down,
    classifier_inputs,
    classify,
    pixel_features,
    restored_classifier,
)

DATA = halves(0, 60)


def collected(images, labels, num_classes, *, settings, part=25):
    """The training images of a classifier, which come in parts."""
    training = TrainingImages(images.shape, num_classes, settings)
    for start in range(0, len(images), part):
        training.add(images[start : start + part], labels[start : start + part])
    return training


@pytest.fixture(scope="module")
def trained():
    """The classifier of TINY."""
    return collected(*DATA, 2, settings=TINY).train()


def test_blocks_are_averaged_also_where_they_do_not_fit():
    images = np.arange(15, dtype=np.uint8).reshape(1, 3, 5, 1)
    expected = [[(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4, (4 + 9) / 2], [(10 + 11) / 2, (12 + 13) / 2, 14]]
    np.testing.assert_array_equal(average_down(images, 2)[0, ..., 0], np.float32(expected))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 8, 1), 64), ((28, 28, 1), 784), ((32, 32, 3), 16 * 16 * 3), ((64, 60, 3), 16 * 15 * 3), ((1, 1, 2000), 2000)],
)
def test_pixel_features_are_no_more_than_allowed(shape, expected):
    flat = pixel_features(np.full((2, *shape), 51, np.uint8))
    assert flat.shape == (2, expected)
    np.testing.assert_allclose(flat, 0.2, rtol=1e-6)


@pytest.mark.parametrize(("side", "stride"), [(8, 1), (7, 2)])
def test_weights_on_neighborhoods_are_a_convolution(side, stride):
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, side, side, 3), (3, 3, 3, 4)))
    layout = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(1, 1)] * 2, dimension_numbers=layout)
    ours = np.asarray(features._neighborhoods(jax.numpy.asarray(x), stride=stride)) @ kernel.reshape(27, 4)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_classifier_learns_digits():
    values, labels = load_digits(return_X_y=True)
    images = np.round(values * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    settings = ClassifierSettings(training_steps=200)  # a third of the default, which is enough
    classifier = collected(images[train], labels[train], 10, settings=settings).train()
    activations, logits = classify(classifier, classifier_inputs(images[test], 32))
    assert activations.shape == (360, 64)
    assert np.mean(logits.argmax(axis=1) == labels[test]) >= 0.98


def test_features_do_not_depend_on_the_batch(trained, monkeypatch):
    inputs = classifier_inputs(DATA[0], 32)
    whole = classify(trained, inputs)
    monkeypatch.setattr(features, "BATCH", 50)
    for ours, expected in zip(classify(trained, inputs), whole, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("part", [7, 60])
def test_a_classifier_does_not_depend_on_the_parts_that_its_images_come_in(trained, part):
    again = collected(*DATA, 2, settings=TINY, part=part).train()
    jax.tree.map(np.testing.assert_array_equal, again, trained)


def test_a_classifier_is_restored_from_its_parameters_by_name(trained):
    again = restored_classifier(trees.named_leaves(trained.variables), 2, TINY, trained.fingerprint)
    jax.tree.map(np.testing.assert_array_equal, again, trained)
    assert (again.network, again.max_side) == (trained.network, trained.max_side)


@pytest.mark.parametrize("change", ["image", "label", "seed", "training_steps", "width"])
def test_whatever_decides_the_classifier_is_in_its_fingerprint(trained, change, monkeypatch):
    images, labels = (array.copy() for array in DATA)
    settings = TINY
    if change == "image":
        images[-1, -1, -1, -1] ^= 1
    elif change == "label":
        labels[-1] ^= 1
    else:
        settings = TINY._replace(**{change: getattr(TINY, change) + 1})
    monkeypatch.setattr(features, "_fit", lambda *args: {})
    assert collected(*DATA, 2, settings=TINY).train().fingerprint == trained.fingerprint
    assert collected(images, labels, 2, settings=settings).train().fingerprint != trained.fingerprint


def test_labels_out_of_range_or_missing_are_refused():
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 1\)"):
        collected(*DATA, 1, settings=TINY)
    with pytest.raises(ValueError, match="has 2 classes, so its images must come with labels"):
        TrainingImages(DATA[0].shape, 2, TINY).add(DATA[0])


@pytest.mark.parametrize("bits", [8, 16])
def test_pixels_and_inputs_are_fractions_of_the_largest_level(bits):
    images = np.array([0, 2**bits - 1], np.uint8 if bits == 8 else np.uint16).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(pixel_features(images)[:, 0], [0.0, 1.0])
    np.testing.assert_allclose(classifier_inputs(images, 32)[:, 0, 0, 0], [-1.0, 1.0])


def test_the_protocol_of_the_classifier_does_not_change_unnoticed():
    """Its figures are compared across models, runs and years."""
    assert ClassifierSettings() == (32, 64, 32, 600, 128, 3e-3, 0)


@pytest.mark.parametrize(
    ("shape", "max_features", "factor"),
    [
        ((32, 32, 1), 1024, 1),
        ((32, 33, 1), 1024, 2),
        ((32, 32, 1), 1023, 2),
        ((10, 9, 2), 24, 3),
        ((9, 10, 2), 23, 4),
        ((5, 5, 7), 1, 5),
    ],
)
def test_the_block_is_the_smallest_that_leaves_few_enough_numbers(shape, max_features, factor):
    assert features.pixel_factor(shape, max_features) == factor


def test_pixels_are_1024_numbers_at_most_unless_told_otherwise():
    images = np.random.default_rng(0).integers(256, size=(3, 33, 32, 1)).astype(np.uint8)
    assert pixel_features(images).shape == (3, 17 * 16)
    assert pixel_features(images[:, :32]).shape == (3, 1024)
    np.testing.assert_allclose(pixel_features(images[:, :32])[1, 33], images[1, 1, 1, 0] / 255, rtol=1e-6)


def test_large_sets_are_averaged_in_parts(monkeypatch):
    images = np.random.default_rng(0).integers(256, size=(7, 5, 4, 2)).astype(np.uint8)
    whole = average_down(images, 2)
    monkeypatch.setattr(features, "BATCH", 3)
    np.testing.assert_array_equal(average_down(images, 2), whole)
    np.testing.assert_allclose(whole[6, 0, 1], images[6, :2, 2:4].mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(whole[6, 2, 1], images[6, 4, 2:4].mean(0), rtol=1e-6)


@pytest.mark.parametrize(("shape", "small"), [((8, 6), (8, 6)), ((9, 6), (5, 3)), ((6, 17), (2, 6)), ((6, 16), (3, 8))])
def test_the_classifier_sees_images_of_limited_side_in_minus_one_to_one(shape, small):
    images = np.full((2, *shape, 1), 255, np.uint8)
    images[1] = 51
    seen = classifier_inputs(images, 8)
    assert seen.shape == (2, *small, 1)
    np.testing.assert_allclose(seen[0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(seen[1], -0.6, rtol=1e-6)


@pytest.mark.parametrize(("side", "widths", "last"), [(3, [], 3), (4, [8], 2), (32, [8, 16, 16, 16], 2)])
def test_widths_double_up_to_four_times_while_the_image_is_halved(side, widths, last):
    network = features.ConvClassifier(num_classes=5, width=4, num_features=7)
    image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    params = jax.eval_shape(network.init, keys.root_key(0), image)["params"]
    kernels = [params[f"Dense_{i}"]["kernel"].shape for i in range(len(params))]
    channels = [4, *widths]
    ends = [(27, 4), *((9 * a, b) for a, b in itertools.pairwise(channels))]
    assert kernels == [*ends, (last * last * channels[-1], 7), (7, 5)]


def test_the_longer_side_says_how_often_the_image_is_halved():
    network = features.ConvClassifier(num_classes=5, width=4, num_features=7)
    image = jax.ShapeDtypeStruct((2, 4, 16, 3), jnp.float32)
    params = jax.eval_shape(network.init, keys.root_key(0), image)["params"]
    kernels = [params[f"Dense_{i}"]["kernel"].shape for i in range(len(params))]
    assert kernels == [(27, 4), (36, 8), (72, 16), (144, 16), (1 * 2 * 16, 7), (7, 5)]


def test_the_network_written_out():
    network = features.ConvClassifier(num_classes=3, width=2, num_features=4)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 1)), jnp.float32)
    variables = network.init(keys.root_key(1), images)
    weights = [(np.asarray(layer["kernel"]), np.asarray(layer["bias"]) + 0.1) for layer in variables["params"].values()]
    variables = {"params": {f"Dense_{i}": {"kernel": w, "bias": b} for i, (w, b) in enumerate(weights)}}

    def windows(x, stride):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows = range(0, x.shape[1], stride)
        return np.stack([[padded[:, i : i + 3, j : j + 3].reshape(len(x), -1) for j in rows] for i in rows]).transpose(
            2, 0, 1, 3
        )

    x = np.maximum(windows(images, 1) @ weights[0][0] + weights[0][1], 0)
    x = np.maximum(windows(x, 2) @ weights[1][0] + weights[1][1], 0)
    hidden = np.maximum(x.reshape(2, -1) @ weights[2][0] + weights[2][1], 0)
    activations, logits = network.apply(variables, images)
    np.testing.assert_allclose(activations, hidden, rtol=1e-5)
    np.testing.assert_allclose(logits, hidden @ weights[3][0] + weights[3][1], rtol=1e-4)
    assert (activations > 0).any()


def test_a_batch_of_training_is_drawn_from_all_images_and_shifted_by_up_to_an_eighth_of_the_side():
    images = 1000.0 * np.arange(3)[:, None, None, None] + np.arange(16 * 16, dtype=np.float32).reshape(1, 16, 16, 1)
    labels = np.array([4, 0, 2], np.int32)
    key = keys.root_key(0)
    batch, targets = features._draw(key, 5, 200, jnp.asarray(images), jnp.asarray(labels))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    shifts, counts = [], np.zeros(3)
    for image, target in zip(np.asarray(batch), np.asarray(targets), strict=True):
        center = image[8, 8, 0]
        i, (row, column) = int(center // 1000), divmod(int(center % 1000), 16)
        np.testing.assert_array_equal(image, padded[i, row - 6 : row + 10, column - 6 : column + 10])
        np.testing.assert_allclose(target, 0.01 + 0.95 * (np.arange(5) == labels[i]), rtol=1e-5)
        shifts.append([row - 8, column - 8])
        counts[i] += 1
    # Both ways, each up to 2 pixels, from a stream of their own.
    assert shifts == (jax.random.randint(keys.stream(key, "shifts"), (200, 2), 0, 5) - 2).tolist()
    chosen = jax.random.randint(keys.stream(key, "images"), (200,), 0, 3)
    assert counts.tolist() == np.bincount(chosen, minlength=3).tolist()


def test_images_are_shifted_by_up_to_an_eighth_of_the_longer_side_along_both():
    image = jnp.arange(4 * 16, dtype=jnp.float32).reshape(1, 4, 16, 1)
    key = keys.root_key(0)
    batch, _ = features._draw(key, 2, 40, image, jnp.zeros(1, jnp.int32))
    padded = np.pad(image[0, ..., 0], 2, mode="edge")
    places = jax.random.randint(keys.stream(key, "shifts"), (40, 2), 0, 5)
    expected = [padded[row : row + 4, column : column + 16] for row, column in np.asarray(places)]
    np.testing.assert_array_equal(batch[..., 0], expected)


def test_training_is_adamw_on_a_one_cycle_schedule_written_out():
    """Of a linear classifier, on the batches of `_draw` at each step's own key."""

    class Linear(features.ConvClassifier):
        @nn.compact
        def __call__(self, images):
            flat = images.reshape(len(images), -1)
            return flat, nn.Dense(self.num_classes)(flat)

    settings = TINY._replace(training_steps=4, batch_size=8, learning_rate=0.1)
    images, labels = classifier_inputs(DATA[0], 32), DATA[1].astype(np.int32)
    key, network = keys.root_key(3), Linear(2, 1, 1)
    trained = features._fit(key, network, settings, images, labels)
    variables = network.init(keys.stream(key, "init"), images[:1])
    schedule = optax.cosine_onecycle_schedule(4, 0.1)
    mean, square = (jax.tree.map(jnp.zeros_like, variables) for _ in range(2))

    @jax.jit
    @jax.grad
    def gradient_at(variables, step):
        batch, targets = features._draw(keys.at_step(key, step), 2, 8, jnp.asarray(images), jnp.asarray(labels))
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(network.apply(variables, batch)[1]), axis=1))

    for step in range(4):
        gradient = gradient_at(variables, step)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, gradient)
        scales, rate = (1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)), schedule(step)
        variables = jax.tree.map(
            lambda p, m, v, scales=scales, rate=rate: (
                p - rate * (m / scales[0] / (jnp.sqrt(v / scales[1]) + 1e-8) + 0.01 * p)
            ),
            variables,
            mean,
            square,
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), trained, variables)


def test_the_classifier_is_trained_by_the_seed_of_its_settings_on_all_inputs(monkeypatch):
    given = []
    monkeypatch.setattr(features, "_fit", lambda *arguments: given.append(arguments) or {})
    settings = TINY._replace(seed=5, max_side=4)
    collected(*DATA, 2, settings=settings).train()
    ((key, network, passed, inputs, labels),) = given
    assert (jax.random.key_data(key) == jax.random.key_data(keys.stream(keys.root_key(5), "classifier"))).all()
    assert (network, passed) == (features.ConvClassifier(2, TINY.width, TINY.num_features), settings)
    np.testing.assert_array_equal(inputs, classifier_inputs(DATA[0], 4))
    np.testing.assert_array_equal(labels, DATA[1])


def test_labels_reach_from_zero_to_the_number_of_classes():
    images, labels = DATA
    for wrong in (labels - 1, labels + 1):
        with pytest.raises(ValueError, match=rf"\[0, 2\), and they reach {wrong.min()} and {wrong.max()}\.$"):
            collected(images, wrong, 2, settings=TINY, part=60)


def test_a_classifier_keeps_what_it_was_made_with(trained):
    assert trained.network == features.ConvClassifier(2, TINY.width, TINY.num_features)
    assert trained.max_side == TINY.max_side
    assert len(trained.fingerprint) == 16
    activations, logits = classify(trained, classifier_inputs(DATA[0][:1], 32))
    assert (activations.shape, logits.shape) == ((1, 8), (1, 2))


def test_the_shape_of_the_images_and_the_classes_are_in_the_fingerprint(monkeypatch):
    monkeypatch.setattr(features, "_fit", lambda *args: {})
    images, labels = DATA
    prints = {
        collected(pixels, labels.astype(kind), classes, settings=TINY).train().fingerprint
        for pixels in (images, images.reshape(60, 4, 16, 1))
        for classes in (2, 3)
        for kind in (np.int32, np.int64)
    }
    assert len(prints) == 4  # the type of the labels is no matter


def test_the_fingerprint_of_a_classifier_is_what_it_always_was(monkeypatch):
    """It stands in the reports of all evaluations."""
    monkeypatch.setattr(features, "_fit", lambda *args: {})
    settings = ClassifierSettings()
    network = features.ConvClassifier(2, settings.width, settings.num_features)
    digest = hashlib.sha256(f"{DATA[0].shape} {network!r} {settings!r}".encode())
    digest.update(DATA[0].tobytes())
    digest.update(DATA[1].astype(np.int32).tobytes())
    assert collected(*DATA, 2, settings=settings).train().fingerprint == digest.hexdigest()[:16]

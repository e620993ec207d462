import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from specs import data_spec

from jaxgen.core import conditioning, keys
from jaxgen.core import images as image_tools
from jaxgen.core.conditioning import classes
from jaxgen.core.contract import ModelSpec
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sampling

SPEC = data_spec((2, 3, 1), 3)
VARIABLES = {"w": jnp.zeros(toy.SHAPE)}


def draw(count, *, num_devices=8, batch_size=8, seed=1, chosen=()):
    labels = sampling.balanced_labels(SPEC, count, chosen)
    mesh = meshes.make_mesh(num_devices)
    return sampling.draw_images(
        toy.make_model(), VARIABLES, labels, count=count, seed=seed, mesh=mesh, batch_size=batch_size
    )


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(10, 5, [8, 2]), (8, 8, [8]), (3, 100, [3]), (21, 16, [16, 5])])
def test_batches_are_filled_up_to_the_devices_and_trimmed(n, batch_size, sizes):
    image_keys = keys.per_example(keys.root_key(0), jnp.arange(n))
    rows = {"label": np.arange(n, dtype=np.float32)}

    def fn(keys, variables, rows):
        return jax.vmap(jax.random.normal)(keys) + variables + 10 * rows["label"]

    parts = list(sampling.map_batches(fn, meshes.make_mesh(), image_keys, 5.0, rows, batch_size=batch_size))
    assert [len(part) for part in parts] == sizes
    np.testing.assert_allclose(np.concatenate(parts), fn(image_keys, 5.0, rows), rtol=1e-6)


def test_any_number_of_images_costs_one_compilation():
    traced = []

    def fn(keys, variables, rows):
        traced.append(keys.shape)
        return jax.vmap(jax.random.normal)(keys) + variables

    for n in (8, 10, 24):
        image_keys = keys.per_example(keys.root_key(0), jnp.arange(n))
        list(sampling.map_batches(fn, meshes.make_mesh(), image_keys, 5.0, None, batch_size=8))
    assert traced == [(8,)]


def test_an_image_is_a_function_of_its_seed_index_and_label_alone():
    whole = draw(12, batch_size=16)
    assert (whole.shape, whole.dtype) == ((12, *toy.SHAPE), np.uint8)
    np.testing.assert_array_equal(draw(12, batch_size=3, num_devices=2), whole)
    np.testing.assert_array_equal(draw(5, num_devices=1), whole[:5])
    assert len(np.unique(whole, axis=0)) == 12
    assert (draw(12, seed=2) != whole).any((1, 2, 3)).all()
    other = draw(12, chosen=[0])
    np.testing.assert_array_equal((other == whole).all((1, 2, 3)), np.arange(12) % 3 == 0)


def drawn_batches(count, **options):
    given = {"seed": 1, "mesh": meshes.make_mesh(2), "batch_size": 5, **options}
    labels = sampling.balanced_labels(SPEC, count)
    return list(sampling.draw_batches(toy.make_model(), VARIABLES, labels, count=count, **given))


@pytest.mark.parametrize("calls_at_once", [1, 2, 64])
def test_some_of_the_images_come_in_the_batches_of_all(monkeypatch, calls_at_once):
    monkeypatch.setattr(sampling, "_CALLS_AT_ONCE", calls_at_once)
    whole = draw(32, num_devices=2, batch_size=32)
    for start, stop, sizes in (
        (0, None, [6, 6, 6, 6, 6, 2]),  # 5 is rounded up to the devices
        (6, 18, [6, 6]),
        (8, 31, [4, 6, 6, 6, 1]),
        (30, None, [2]),
        (12, 12, []),
    ):
        batches = drawn_batches(32, start=start, stop=stop)
        assert [len(batch) for batch in batches] == sizes
        if sizes:
            np.testing.assert_array_equal(np.concatenate(batches), whole[start:stop])


def test_batches_of_some_images_have_the_shape_of_those_of_all():
    shapes = []

    def sample(keys, variables, cond=None):
        shapes.append((keys.shape, cond["label"].shape))
        return jnp.zeros((len(keys), *toy.SHAPE))

    model, labels = toy.make_model()._replace(sample=sample), sampling.balanced_labels(SPEC, 32)
    options = {"count": 32, "seed": 0, "mesh": meshes.make_mesh(2), "batch_size": 6}
    for start in (0, 30):
        list(sampling.draw_batches(model, VARIABLES, labels, start=start, **options))
    assert shapes == [((6,), (6,))]  # traced once


def test_images_are_drawn_as_they_are_asked_for():
    drawn = sampling.draw_batches(
        toy.make_model(), VARIABLES, None, count=2**31 - 1, seed=0, mesh=meshes.make_mesh(8), batch_size=8
    )
    assert len(next(drawn)) == 8  # no array of all images, or of all their keys


@pytest.mark.parametrize(
    ("hint", "sentence"),
    [
        ("", "2 of 8 images are not finite: the model's weights"),
        ("steps are few; add some", "finite: steps are few; add"),
    ],
)
def test_images_that_are_not_finite_are_refused_with_the_models_cause(hint, sentence):
    def sample(keys, variables, cond=None):
        broken = jnp.where(cond["label"] == 2, jnp.inf, 0.0).at[0].set(0.0)
        return jnp.zeros((len(keys), *toy.SHAPE)).at[:, 1, 2, 0].set(broken)

    model = toy.make_model()._replace(sample=sample, nonfinite_hint=hint)
    options = {"count": 20, "seed": 0, "mesh": meshes.make_mesh(8), "batch_size": 8}
    done = []
    with pytest.raises(sampling.NonfiniteImagesError, match=sentence):
        sampling.draw_images(model, VARIABLES, sampling.balanced_labels(SPEC, 20), on_batch=done.append, **options)
    assert done == []
    assert sampling.draw_images(model, VARIABLES, np.zeros(20, np.int32), **options).shape == (20, *toy.SHAPE)


@pytest.mark.parametrize(
    ("num_classes", "count", "chosen", "expected"),
    [(3, 7, (), [0, 1, 2, 0, 1, 2, 0]), (3, 5, (2, 0), [2, 0, 2, 0, 2]), (3, 3, [1], [1, 1, 1]), (0, 4, (), None)],
)
def test_labels_go_round_the_classes_or_those_chosen(num_classes, count, chosen, expected):
    labels = sampling.balanced_labels(data_spec((2, 2, 1), num_classes), count, chosen)
    assert (labels if labels is None else labels.tolist()) == expected
    assert labels is None or labels.dtype == np.int32


@pytest.mark.parametrize(
    ("num_classes", "chosen", "sentence"),
    [
        (3, [0, 3], "has no class 3; its classes are the numbers from 0 to 2"),
        (3, [-1], "no class -1"),
        (0, [1], "unconditi"),
    ],
)
def test_labels_that_are_no_classes_are_refused(num_classes, chosen, sentence):
    with pytest.raises(ValueError, match=sentence):
        sampling.balanced_labels(data_spec((2, 2, 1), num_classes), 4, chosen)


@pytest.mark.parametrize("conditional", [True, False])
def test_reconstructions_are_decoded_codes(conditional):
    """A model that codes an image by its half, less its class."""

    def shift(cond):
        assert bool(cond) == conditional
        return 0.0 if not cond else cond["label"].astype(jnp.float32)[:, None, None, None]

    model = toy.make_model()._replace(
        spec=SPEC if conditional else ModelSpec(toy.SHAPE),
        encode=lambda keys, variables, images, cond=None: variables * images - shift(cond),
        decode=lambda variables, latents, cond=None: (latents + shift(cond)) / variables,
    )
    originals = np.random.default_rng(0).integers(256, size=(11, *toy.SHAPE)).astype(np.uint8)
    labels = np.arange(11, dtype=np.int32) % 3 if conditional else None
    rows = {"image": originals} | ({"label": labels} if conditional else {})
    fn, row_keys = sampling.reconstruction(model), keys.per_example(keys.root_key(0), jnp.arange(11))
    back = sampling.map_batches(fn, meshes.make_mesh(), row_keys, jnp.array(0.5), rows, batch_size=8)
    np.testing.assert_array_equal(image_tools.to_levels(np.concatenate(list(back)), 256), originals)


@pytest.mark.parametrize("conditional", [True, False])
def test_scores_are_the_models_log_likelihoods_in_order(conditional):
    def log_prob(keys, variables, images, cond=None):
        assert ("label" in cond) == conditional
        label = cond["label"].astype(jnp.float32) if conditional else 0.0
        return variables * images.mean(axis=(1, 2, 3)) + label

    spec = SPEC if conditional else ModelSpec(toy.SHAPE)
    model = toy.make_model()._replace(spec=spec, log_prob=log_prob)
    originals = np.random.default_rng(0).integers(256, size=(11, *toy.SHAPE)).astype(np.uint8)
    labels = np.arange(11, dtype=np.int32) % 3
    scores = sampling.score_images(model, jnp.array(0.5), originals, labels, mesh=meshes.make_mesh(), batch_size=8)
    expected = 0.5 * (originals / 127.5 - 1.0).mean(axis=(1, 2, 3)) + (labels if conditional else 0.0)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_images_of_few_levels_are_scored_and_reconstructed_on_these():
    def first(keys, variables, images, cond=None):
        return images[:, 0, 0, 0]

    model = toy.make_model()
    spec = model.spec._replace(conditioning={}, levels=17)
    model = model._replace(spec=spec, log_prob=first, encode=first, decode=lambda variables, latents, cond: latents)
    originals = np.broadcast_to(np.uint8([0, 16, 140, 255]).reshape(4, 1, 1, 1), (4, *toy.SHAPE))
    scores = sampling.score_images(model, VARIABLES, originals, None, mesh=meshes.make_mesh(), batch_size=4)
    rows, row_keys = {"image": jnp.asarray(originals)}, keys.per_example(keys.root_key(0), jnp.arange(4))
    for found in (scores, sampling.reconstruction(model)(row_keys, VARIABLES, rows)):
        np.testing.assert_allclose(found, [-1.0, -0.875, 0.125, 1.0], atol=1e-6)


def test_what_is_not_known_of_the_images_is_left_to_the_model():
    """Conditions other than the class are null ones, or refused by name."""

    def log_prob(image_keys, variables, images, cond=None):
        told = conditioning.complete(spec.conditioning, cond, len(images))
        return 10.0 * told["label"] + told["color"]

    originals, labels = np.zeros((5, *toy.SHAPE), np.uint8), np.array([0, 2, 1, 2, 0], np.int32)
    for null in (True, False):
        conditions = {"label": classes(3), "color": classes(8, null=null)}
        spec = ModelSpec(toy.SHAPE, conditions, likelihood="exact")
        model = toy.make_model()._replace(spec=spec, log_prob=log_prob)
        with contextlib.nullcontext() if null else pytest.raises(ValueError, match="The model needs 'color'"):
            scores = sampling.score_images(model, VARIABLES, originals, labels, mesh=meshes.make_mesh(), batch_size=8)
            np.testing.assert_allclose(scores, 10.0 * labels + 8.0)


def test_no_key_of_an_image_is_one_of_training(monkeypatch):
    """Under one seed: the keys of images drawn, coded and scored, and those of start, steps and examples."""
    count, used = 64, {}

    def record(fn, mesh, keys, variables, rows, *, batch_size, of=None):
        used[fn.__name__] = rows_of(keys)
        return iter([np.zeros((count, *toy.SHAPE), np.float32)])

    monkeypatch.setattr(sampling, "map_batches", record)
    model = toy.make_model()._replace(encode=len, decode=len, log_prob=len)
    originals, labels, mesh = np.zeros((count, *toy.SHAPE), np.uint8), np.zeros(count, np.int32), meshes.make_mesh()
    sampling.draw_images(model, VARIABLES, labels, count=count, seed=0, mesh=mesh, batch_size=count)
    sampling.score_images(model, VARIABLES, originals, labels, mesh=mesh, batch_size=count)
    fn = sampling.reconstruction(model)
    used[fn.__name__] = rows_of(keys.per_example(sampling.stream_of(fn), jnp.arange(count)))

    training = keys.stream(keys.root_key(0), "train")
    steps = [keys.at_step(training, step) for step in range(8)]
    examples = [keys.per_example(step, jnp.arange(count)) for step in steps]
    trained = rows_of(jnp.stack([keys.root_key(0), training, keys.stream(training, "init"), *steps]))
    trained |= set().union(*map(rows_of, examples))
    assert sorted(used) == ["reconstruct", "sample", "score"]
    assert len(set().union(*used.values(), trained)) == 3 * count + 3 + 8 + 8 * count


def rows_of(some_keys):
    return {tuple(row) for row in np.asarray(jax.random.key_data(some_keys)).tolist()}

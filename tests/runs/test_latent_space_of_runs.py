"""The latent space of runs with random weights: what images are of, directions of the weights, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import untrained_runs

import jaxgen
from jaxgen.applications.latents.projection import ProjectionSettings
from jaxgen.core import images as image_tools
from jaxgen.core import keys, trees
from jaxgen.runs import latent_space, projecting


@pytest.fixture(scope="module")
def styled(tmp_path_factory):
    """StyleGAN2, conditional on three classes."""
    directory = tmp_path_factory.mktemp("latents") / "stylegan2"
    return jaxgen.open(untrained_runs.make(directory, "stylegan2:tiny"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """An unconditional perceptron, whose latents are of no other layer's length."""
    directory = tmp_path_factory.mktemp("latents") / "gan"
    settings = {"gan.class_conditional": False, "gan.latent_dim": 5}
    return jaxgen.open(untrained_runs.make(directory, "gan:tiny", **settings))


def test_paths_lead_from_one_random_image_to_another(styled, plain):
    paths = latent_space.interpolate(styled, 3, steps=4, seed=1, label=[2, 0])
    assert (paths.images.shape, paths.labels.tolist()) == ((3, 4, 8, 8, 1), [2, 0, 2])
    latents = latent_space.random_latents(styled, 6, 1)
    ends = styled.styles(latents, labels=np.array([2, 2, 0, 0, 2, 2]))
    np.testing.assert_allclose(paths.points[:, 0], ends[::2], atol=1e-6)
    np.testing.assert_allclose(paths.points[:, 3], ends[1::2], atol=1e-6)
    np.testing.assert_allclose(paths.points[:, 1], (2 * ends[::2] + ends[1::2]) / 3, atol=1e-5)
    np.testing.assert_array_equal(paths.images[:, 0], styled.decode(latents[::2], labels=paths.labels))
    arcs = latent_space.interpolate(plain, 2, steps=3)
    np.testing.assert_array_equal(arcs.images[1, 2], plain.decode(latent_space.random_latents(plain, 4, 0)[3:])[0])
    lengths = np.linalg.norm(arcs.points, axis=-1)
    assert np.all(lengths[:, 1] > 0.95 * lengths[:, [0, 2]].min(axis=1))
    chords = np.linalg.norm(arcs.points[:, 0] + arcs.points[:, 2], axis=-1) / 2
    assert np.all(lengths[:, 1] > 1.02 * chords)
    in_z = latent_space.interpolate(styled, 1, steps=2, space="z")
    assert in_z.points.shape == (1, 2, 4)


def test_latents_are_functions_of_the_seed_and_of_their_number(plain):
    some, more = latent_space.random_latents(plain, 2, 7), latent_space.random_latents(plain, 5, 7)
    np.testing.assert_array_equal(some, more[:2])
    assert np.abs(latent_space.random_latents(plain, 2, 8) - some).min() > 0


def test_mixed_styles_are_a_table_with_its_sources(styled):
    layers = styled.model.styles(styled.variables, jnp.zeros((1, 4)), {"label": jnp.array([0])}).shape[1]
    table = latent_space.mix(styled, 2, 3, first=1, last=2, seed=3)
    assert table.images.shape == (3, 4, 8, 8, 1)
    assert np.all(table.images[0, 0] == 128)
    sources = styled.decode(latent_space.random_latents(styled, 5, 3), labels=table.labels)
    np.testing.assert_array_equal(table.images[1:, 0], sources[:2])
    np.testing.assert_array_equal(table.images[0, 1:], sources[2:])
    rows, columns = table.points[1:, 0], table.points[0, 1:]
    others = [i for i in range(layers) if i != 1]
    np.testing.assert_array_equal(table.points[2, 3][others], rows[1][others])
    np.testing.assert_array_equal(table.points[2, 3][1], columns[2][1])
    np.testing.assert_array_equal(table.images[2, 3], styled.synthesize(table.points[2, 3][None])[0])


def test_directions_are_those_of_the_affine_layers_or_of_the_first_kernel(styled, plain):
    found = latent_space.find_directions(styled, 2)
    affine = [
        np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(styled.variables["params"])
        if "affine" in jax.tree_util.keystr(path) and leaf.ndim == 2
    ]
    assert len(affine) == 5
    matrix = np.concatenate([kernel / np.linalg.norm(kernel, axis=0) for kernel in affine], axis=1)
    first = np.linalg.svd(matrix)[0][:, 0]
    np.testing.assert_allclose(abs(found.vectors[0] @ first), 1.0, atol=1e-4)
    of_latents = latent_space.find_directions(plain, 5)
    assert of_latents.vectors.shape == (5, 5)
    colors = latent_space.find_directions(styled, 1, weights=".*torgb/affine/kernel")
    kernels = [styled.variables["params"]["synthesis"][block]["torgb"]["affine"]["kernel"] for block in ("b4", "b8")]
    matrix = np.concatenate([kernel / np.linalg.norm(kernel, axis=0) for kernel in map(np.asarray, kernels)], axis=1)
    np.testing.assert_allclose(abs(colors.vectors[0] @ np.linalg.svd(matrix)[0][:, 0]), 1.0, atol=1e-4)


@pytest.fixture(scope="module")
def in_large_batches(styled):
    """The same run, for thousands of styles at once."""
    return jaxgen.open(styled.directory, **{"sample.batch_size": 1_000})


def test_ganspace_is_of_styles_of_the_chosen_class(in_large_batches):
    styled = in_large_batches
    found = latent_space.find_directions(styled, 2, method="ganspace", label=1, seed=2)
    latents = latent_space.random_latents(styled, 10_000, 2)
    ws = styled.styles(latents, labels=np.ones(10_000, np.int32))[:, 0]
    expected = np.linalg.svd(ws - ws.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found.vectors @ expected[2][:2].T), np.eye(2), atol=1e-3)
    np.testing.assert_allclose(found.scales, expected[1][:2] / np.sqrt(9_999.0), rtol=1e-3)


def test_images_move_along_directions(styled, plain):
    moved = latent_space.traverse(plain, np.eye(5, dtype=np.float32)[:2], 3, distances=np.array([-1.0, 0.0, 2.0]))
    assert moved.images.shape == (3, 2, 3, 8, 8, 1)
    latents = latent_space.random_latents(plain, 3, 0)
    np.testing.assert_array_equal(moved.images[:, 1, 1], plain.decode(latents))
    np.testing.assert_array_equal(moved.images[2, 0, 2], plain.decode(latents[2:] + 2 * np.eye(5)[:1])[0])
    in_w = latent_space.traverse(styled, np.eye(4, dtype=np.float32)[:1], 2, distances=np.array([0.5]), label=[1, 2])
    ws = styled.styles(latent_space.random_latents(styled, 2, 0), labels=np.array([1, 2]))
    np.testing.assert_allclose(in_w.points[:, 0, 0] - ws, np.broadcast_to(0.5 * np.eye(4)[0], ws.shape), atol=1e-6)


SETTINGS = ProjectionSettings(steps=60, learning_rate=0.1, exploration=0.0)


def test_images_are_projected_into_the_latents(plain):
    latents = latent_space.random_latents(plain, 3, 5)
    targets, seen = plain.decode(latents), []
    found = projecting.project(
        plain, targets, settings=SETTINGS._replace(steps=100), on_progress=lambda *done: seen.append(done)
    )
    assert found.points.shape == (3, 5)
    np.testing.assert_array_equal(found.targets, targets)
    np.testing.assert_array_equal(found.images, plain.decode(found.points))
    assert found.distances.shape == (100, 3)
    assert np.all(found.distances[-1] < 0.5 * found.distances[0])
    assert seen[-1] == (projecting.PROJECTING, 300, 300)


def test_images_are_projected_into_the_styles_of_their_class_with_noise(styled, in_large_batches):
    labels = np.array([1, 2, 1])
    targets = styled.decode(latent_space.random_latents(styled, 3, 5), labels=labels)
    bright = np.clip(targets.astype(int) + 40, 0, 255).astype(np.uint8)
    found = projecting.project(styled, bright, labels=labels, settings=SETTINGS, noise=False)
    assert found.points.shape == (3, 4, 4)
    np.testing.assert_array_equal(found.points, found.points[:, :1].repeat(4, axis=1))
    np.testing.assert_array_equal(found.images, styled.synthesize(found.points))
    assert np.all(found.distances[-1] < found.distances[0])
    still = SETTINGS._replace(steps=1, learning_rate=0.0)
    start = projecting.project(styled, bright, labels=labels, settings=still, noise=False).points[:, 0]
    ws = in_large_batches.styles(latent_space.random_latents(styled, 4_000, 9), labels=np.full(4_000, 2))[:, 0]
    np.testing.assert_allclose(start[1], ws.mean(0), atol=0.05 * ws.std())
    np.testing.assert_array_equal(start[0], start[2])
    assert np.abs(start[0] - start[1]).max() > 1e-3


STILL = ProjectionSettings(steps=1, learning_rate=0.0, exploration=0.0)


def nearest(run, target, label=None):
    """The one of 64 random latents whose image is nearest to a target."""
    latents = latent_space.random_latents(run, 64, 7)
    images = run.decode(latents, labels=None if label is None else np.full(64, label)).astype(np.float64)
    return latents[np.argmin(((images - target) ** 2).mean((1, 2, 3)))]


def test_searches_of_latents_start_from_the_nearest_of_some_and_explore_by_their_length(plain, styled):
    """One search an image, whatever batches there are."""
    targets = plain.decode(latent_space.random_latents(plain, 3, 5))
    start = np.stack([nearest(plain, target) for target in targets])
    found = projecting.project(plain, targets, settings=STILL._replace(exploration=0.5), seed=7)
    np.testing.assert_array_equal(found.points, start)
    image_keys = keys.per_example(keys.stream(keys.root_key(7), "project"), jnp.arange(3))
    drawn = keys.normal(keys.fold_each(keys.fold_each(image_keys, "explore"), 0), (5,))
    seen = plain.model.decode(plain.variables, start + np.sqrt(5.0) * 0.5 * drawn)
    expected = ((seen - image_tools.to_float(jnp.asarray(targets))) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(found.distances[0], expected, rtol=1e-3)
    small, steps = jaxgen.open(plain.directory, **{"sample.batch_size": 2}), []
    settings = STILL._replace(exploration=0.5)
    again = projecting.project(small, targets, settings=settings, seed=7, on_progress=lambda *done: steps.append(done))
    np.testing.assert_allclose(again.distances, found.distances, rtol=1e-5)
    assert steps == [(projecting.PROJECTING, 2, 3), (projecting.PROJECTING, 3, 3)]
    labels = np.array([1, 2])
    found = projecting.project(styled, targets[:2], labels=labels, space="z", settings=STILL, seed=7)
    own = [nearest(styled, target, label) for target, label in zip(targets, labels, strict=False)]
    np.testing.assert_array_equal(found.points, own)
    np.testing.assert_array_equal(found.images, styled.decode(found.points, labels=labels))


def test_each_image_has_maps_of_noise_of_its_own(styled):
    """In the place of the constant ones, by their names; searched with the styles, unless they are not to be."""
    loud = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, 0.4) if path[-1].key == "noise_strength" else leaf, styled.variables
    )
    run = jaxgen.open(styled.directory)
    run.__dict__["_restored"] = (loud, 0)
    job = projecting._Targets(run, "w", STILL, True, 0, None, None)
    maps = projecting._noise(job, jax.random.split(jax.random.key(0), 2))
    names = [f"buffers/synthesis/{name}/noise_const" for name in ("b4/conv1", "b8/conv0", "b8/conv1")]
    assert [(name, maps[name].shape) for name in names] == list(zip(names, [(2, 4, 4), *[(2, 8, 8)] * 2], strict=True))
    assert set(maps) == set(names)
    np.testing.assert_allclose(np.std(np.concatenate([np.ravel(leaf) for leaf in maps.values()])), 1.0, rtol=0.15)
    assert np.abs(np.asarray(maps[names[1]]) - np.asarray(maps[names[2]])).min() > 0.0
    styles = jax.random.normal(jax.random.key(1), (2, 4))
    generate, synthesize = (jax.jit(f) for f in (projecting._generator(run.model, "w"), run.model.synthesize))
    made = generate((loud, {"layers": jnp.zeros(4)}), styles, maps)
    for i in range(2):
        own = trees.map_named(lambda name, leaf, i=i: maps[name][i] if name in maps else leaf, loud)
        alone = synthesize(own, jnp.tile(styles[i], (1, 4, 1)))[0]
        np.testing.assert_allclose(made[i], alone, atol=1e-5)
    for changes in ({"noise": False}, {"space": "z"}):
        assert projecting._noise(job._replace(**changes), jax.random.split(jax.random.key(0), 2)) == {}
    targets = np.full((1, 8, 8, 1), 90, np.uint8)
    found = projecting.project(run, targets, labels=np.array([1]), settings=STILL, seed=4)
    maps = projecting._noise(job, keys.per_example(keys.stream(keys.root_key(4), "project"), jnp.arange(1)))
    seen = generate((loud, {"layers": jnp.zeros(4)}), jnp.asarray(found.points[:, 0]), maps)
    expected = jnp.mean((seen - image_tools.to_float(jnp.asarray(targets))) ** 2)
    np.testing.assert_allclose(found.distances, [[expected]], rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: latent_space.interpolate(run, 1, space="w"), "no styles, which the space w is of"),
        (lambda run: latent_space.interpolate(run, 1, steps=1), "has 1 images, but needs at least 2"),
        (lambda run: latent_space.mix(run, 1, 1, first=0), "Style mixing needs a model with styles"),
        (lambda run: latent_space.find_directions(run, 1, method="ganspace"), "GANSpace needs the styles"),
        (lambda run: latent_space.find_directions(run, 1, method="pca"), "must be sefa or ganspace"),
        (lambda run: latent_space.find_directions(run, 6), "6 directions are asked for, but there can be from 1 to 5"),
        (
            lambda run: latent_space.find_directions(run, 1, weights="none"),
            r"finds no weights \[5, n\] that match 'none'",
        ),
        (lambda run: projecting.project(run, np.zeros((1, 4, 4, 1), np.uint8)), "must be uint8 of shape"),
        (lambda run: run.synthesize(np.zeros((1, 4, 4))), "A style needs a model with synthesize"),
    ],
)
def test_what_a_model_lacks_is_refused_in_a_sentence(plain, call, message):
    with pytest.raises(ValueError, match=message):
        call(plain)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: latent_space.mix(run, 0, 1, first=0), "0 rows and 1 columns"),
        (lambda run: latent_space.mix(run, 1, 1, first=4), "Layers from 4 to 4 are mixed"),
        (lambda run: latent_space.find_directions(run, 1, space="z"), "several weights of latents|finds no weights"),
        (lambda run: latent_space.find_directions(run, 1, method="ganspace", weights="a"), "GANSpace takes no weights"),
        (
            lambda run: projecting.project(run, np.zeros((1, 8, 8, 1), np.uint8)),
            "The model is conditional: give labels",
        ),
    ],
)
def test_wrong_arguments_of_styles_are_refused(styled, call, message):
    with pytest.raises(ValueError, match=message):
        call(styled)


def test_a_model_without_a_decoder_has_no_latent_space(plain):
    run = jaxgen.open(plain.directory)
    run.__dict__["experiment"] = plain.experiment._replace(model=plain.model._replace(decode=None))
    with pytest.raises(ValueError, match="A latent space needs a model with decode, which this method does not have"):
        latent_space.interpolate(run, 1)

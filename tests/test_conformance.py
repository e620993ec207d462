"""Every config of the project, at its `tiny` variant, through the properties that the contract promises.

A config that is added to `configs/` is tested from then on; nothing has to be listed here.
"""

import importlib
import subprocess
from collections.abc import Callable, Hashable
from typing import NamedTuple

import chex
import jax
import multiprocess
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_runs import CONFIGS, LAYOUTS, STEPS, Tiny, config_on, host, make_tiny, state_of

from jaxgen.core import keys, trees
from jaxgen.core.contract import Phase
from jaxgen.core.images import to_float, to_levels
from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse
from jaxgen.training.checkpoint import Checkpoints, load_state
from jaxgen.training.workdir import save_config


class Run(NamedTuple):
    """A run on one device, as the others must go: states and samples on the host, and the programs of a step."""

    name: str
    tiny: Tiny
    programs: object
    start: object
    end: object
    metrics: object
    samples: np.ndarray

    def initial(self):
        return self.tiny.runner.from_contract(self.start)

    def train(self, state, first, last):
        return self.tiny.train(self.programs, state, first, last)


LIGHT = ("dcgan", "dit", "pixel_transformer", "vae", "vqvae")
"""Configs with little to compile, which stand for their families and methods."""


def first_of_their(kind: Callable[[ConfigDict], Hashable]) -> set[str]:
    """A light config, or else the first one, of each family, or method, as `kind` makes it from a config."""
    names = [*(name for name in reversed(CONFIGS) if name not in LIGHT), *reversed(LIGHT)]
    tiny = {name: importlib.import_module(f"configs.{name}").get_config("tiny") for name in names}
    return set({kind(config): name for name, config in tiny.items()}.values())


SHORT = first_of_their(lambda config: config.method.split(".")[0])


def networks_of(config: ConfigDict) -> tuple:
    """The method and the names of the networks of a config: other pieces are split over a mesh as the batch is."""
    named = [config.get(player, {}).get("name") for player in ("model", "generator", "discriminator")]
    return (config.method, *named)


ADVERSARIAL = first_of_their(networks_of)
"""Of adversarial configs, those that go through the mesh: one of each pair of networks."""


def marks(name: str) -> list[pytest.MarkDecorator]:
    """One process runs all tests of a config, so that each compiles once; the short suite has one of each family."""
    return [pytest.mark.xdist_group(name), *([pytest.mark.short] if name in SHORT else [])]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=marks(name)) for name in CONFIGS])
def one(request) -> Run:
    tiny = make_tiny(config_on(request.param, "one"))
    start = tiny.init()
    copy, programs = host(start), tiny.compile(start)
    end, metrics = tiny.train(programs, start)
    return Run(request.param, tiny, programs, copy, host(end), host(metrics), tiny.sample(end))


def test_eval_shape_equals_init(one):
    target = experiments.target(one.tiny.experiment)
    chex.assert_trees_all_equal_shapes_and_dtypes(target, one.start)


def test_update_keeps_structure_shapes_and_types(one):
    chex.assert_trees_all_equal_shapes_and_dtypes(one.end, one.start)


def test_update_counts_steps_changes_parameters_and_stays_finite(one):
    assert one.end.step == STEPS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((one.end, one.metrics)))
    assert not trees_equal(one.end.params, one.start.params)


def test_a_phase_is_traced_once(one):
    """All its steps look the same to JAX: batches here, and states in the test of what an update keeps."""
    model, config = one.tiny.experiment.model, one.tiny.config
    seen: dict[Phase, set] = {}
    for step in range(config.train.num_steps):
        leaves, structure = jax.tree.flatten(one.tiny.batches[step])
        types = tuple(jax.typeof(leaf) for leaf in leaves)
        seen.setdefault(model.phase(step), set()).add((structure, types))
    assert all(len(batches) == 1 for batches in seen.values())


def test_same_seed_same_bits_and_other_seed_other_bits(one):
    of_other_networks(one)
    again, _ = one.train(one.initial(), 0, STEPS)
    chex.assert_trees_all_equal(one.end, host(again))
    config = one.tiny.config.copy_and_resolve_references()
    config.seed += 1
    other = experiments.build(parse(config), one.tiny.experiment.spec, sources=one.tiny.experiment.frozen)
    different = other.runner.init(one.tiny.put(0)).params
    assert not trees_equal(one.start.params, host(different))


SIMILAR = ("realnvp", "spline_flow", "jet", "tarflow", "pixelcnn", "pixelcnnpp", "wavenet", "fsq", "vqgan")
"""Configs whose networks have the layers of others with the same method; `tests/nn` has tests of their own."""


ALIKE_ON_A_MESH = (
    "adm",
    "biggan",
    "consistency",
    "ddpm",
    "edm",
    "flow",
    "gan",
    "gated_pixelcnn",
    "latent",
    "mar",
    "meanflow",
    "post_training",
    "r3gan",
    "sit",
    "stylegan3",
    "vdvae",
)
"""Configs whose layers others have that go through the mesh in every run, such as iddpm, edm2, dit, dcgan, cgan_pd and
stylegan2, and whose losses are means over examples. All of them go through it in `make soak`."""


def of_other_networks(one: Run) -> None:
    """Skips a config of adversarial training whose method and networks are another's, and those of similar networks."""
    if ("gan" in one.tiny.config and one.name not in ADVERSARIAL) or one.name in SIMILAR:
        pytest.skip("another config of the same networks goes through it")


def trees_equal(a, b):
    return all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))


def test_two_steps_save_restore_three_steps_equal_five(one, tmp_path):
    state, _ = one.train(one.initial(), 0, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, one.tiny.config)
        on, _ = one.train(state, 2, STEPS)  # donates the buffers that are being saved
        chex.assert_trees_all_equal(host(on), one.end)
        checkpoints.wait()
        restored = checkpoints.restore(checkpoints.newest_whole_step(), one.tiny.runner.target(one.tiny.put(0)))
    resumed, _ = one.train(one.tiny.runner.from_contract(restored), 2, STEPS)
    chex.assert_trees_all_equal(host(resumed), one.end)


QUICK = ("data x fsdp x tensor", "pmap")
"""Layouts that every test run goes through, from the one-device start; `make soak` goes through all, from their own."""

PLAIN_MEANS = ("consistency", "mar", "meanflow", "vdvae", "maskgit")
"""Configs whose losses are means over examples and nothing else, as diffusion's is, by the same builder."""

# What pmap asks of a model is its method's to do, so that one config of each is enough for every run.
PMAPPED = first_of_their(lambda config: config.method) - set(PLAIN_MEANS)


ONE_MICROBATCH = (
    "dcgan",
    "progan",
    "stylegan2",
    "stylegan3",
    "iddpm",
    "flow",
    "sngan",
    "cgan_pd",
    "sagan",
    "biggan",
    "vqgan",
    "factor_vae",
)
"""Configs for which two microbatches are another computation than one: gradients that are no means over examples (batch
normalization, minibatch standard deviations, entropies of codes, latents permuted over a batch, weights that are norms
of gradients), power iterations with each microbatch, and times drawn by the losses of the microbatch before (importance
sampling)."""


@pytest.mark.parametrize("layout", QUICK)
def test_eight_devices_follow_the_trajectory_of_one(one, layout):
    """The mesh takes each batch in two microbatches, whose gradients it accumulates."""
    if layout == "pmap" and one.name not in PMAPPED:
        pytest.skip("another config of the method goes through it")
    if layout != "pmap":
        of_other_networks(one)
        if one.name in ALIKE_ON_A_MESH:
            pytest.skip("another config of such layers goes through it")
    config = config_on(one.name, layout)
    if layout != "pmap" and one.name not in ONE_MICROBATCH:
        config.train.microbatches = 2
    eight = make_tiny(config)
    state = eight.runner.from_contract(one.start)
    state, metrics = eight.train(eight.compile(state), state)
    assert_close(state_of(eight, state), one.end)
    assert_close(host(metrics), one.metrics, rtol=1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_starts_trains_saves_restores_and_samples_as_one_device(one, layout, tmp_path):
    there = make_tiny(config_on(one.name, layout))
    start = there.init()
    assert_close(state_of(there, start), one.start)
    state, metrics = there.train(there.compile(start), start)
    end = state_of(there, state)
    assert_close(end, one.end)
    assert_close(host(metrics), one.metrics, rtol=1e-4)
    np.testing.assert_allclose(there.sample(state), one.samples, atol=1e-5)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(STEPS, there.runner.to_contract(state), there.config)
        checkpoints.wait()
        here, back = (checkpoints.restore(STEPS, t.runner.target(t.put(0))) for t in (one.tiny, there))
    chex.assert_trees_all_equal(host(here), end)
    chex.assert_trees_all_equal(state_of(there, there.runner.from_contract(back)), end)


@pytest.fixture(scope="session")
def peers(tmp_path_factory):
    """Two processes with four devices each, which start once for all configs."""
    directory = tmp_path_factory.mktemp("peers")
    started = multiprocess.start(directory, script="tests/two_process_layout.py", stdin=subprocess.PIPE)
    yield started
    for process in started.processes:
        process.stdin.close()
    assert started.await_all() == [0, 0], started.explain()


@pytest.mark.soak
@pytest.mark.parametrize("layout", ["data x fsdp x tensor", "fsdp x tensor"])
def test_two_processes_start_train_save_restore_and_sample_as_one_device(one, layout, peers, tmp_path):
    save_config(tmp_path, config_on(one.name, layout))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(STEPS, one.tiny.runner.from_contract(one.end), one.tiny.config)
    peers.say(tmp_path)
    peers.await_line(f"done {tmp_path}")
    with np.load(tmp_path / "arrays.npz") as arrays:
        found = {part: gathered(arrays, part) for part in ("start", "end", "metrics", "samples", "restored")}
    assert_close(found["start"], trees.named_leaves(one.start))
    assert_close(found["end"], trees.named_leaves(one.end))
    assert_close(found["metrics"], one.metrics, rtol=1e-4)
    assert_close(found["samples"], {"": one.samples})
    chex.assert_trees_all_equal(found["restored"], trees.named_leaves(one.end))
    here, _ = load_state(tmp_path / "two", one.tiny.runner.target(one.tiny.put(0)))
    chex.assert_trees_all_equal(trees.named_leaves(host(here)), found["end"])


def gathered(arrays, part):
    """What the two processes have left of a tree, by the names of its leaves."""
    return {name.removeprefix(f"{part}/"): value for name, value in arrays.items() if name.startswith(f"{part}/")}


def assert_close(found, expected, *, rtol=1e-5):
    chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=rtol)


def test_samples_depend_on_their_own_keys_and_labels_alone(one):
    of_other_networks(one)
    order = np.array([3, 0, 7, 0, 1, 6, 2, 5])
    mixed = one.tiny.sample(one.tiny.runner.from_contract(one.end), order)
    np.testing.assert_allclose(mixed, one.samples[order], atol=1e-5)
    assert one.samples.shape == (8, *one.tiny.experiment.model.spec.image_shape)
    assert one.samples.dtype == np.float32
    assert np.abs(one.samples).max() <= 1.0
    assert len({image.tobytes() for image in one.samples}) == 8


def test_the_other_functions_see_each_example_alone(one):
    """`denoise`, `log_prob`, `encode` and `decode`, where there are any: each in an order and in another."""
    of_other_networks(one)
    model, order = one.tiny.experiment.model, np.array([3, 0, 7, 4, 1, 6, 2, 5])
    capabilities = [name for name in ("denoise", "log_prob", "encode", "decode") if getattr(model, name) is not None]
    if not capabilities:
        pytest.skip("the model has none of them")
    variables = model.eval_variables(one.end)
    numbers = np.arange(8)
    rows = {
        "image": np.asarray(to_float(jax.numpy.asarray(to_levels(one.samples, one.tiny.experiment.model.spec.levels)))),
        "sigma": np.linspace(0.1, 0.9, 8, dtype=np.float32),
        "label": (numbers % max(model.spec.num_classes, 1)).astype(np.int32),
        "number": numbers,
    }

    @jax.jit
    def apply(variables, rows):
        example_keys = keys.per_example(keys.root_key(3), rows["number"])
        cond = {"label": rows["label"]} if model.spec.num_classes else None
        found = {}
        if model.denoise is not None:
            found["denoise"] = model.denoise(variables, rows["image"], rows["sigma"], cond)
        if model.log_prob is not None:
            found["log_prob"] = model.log_prob(example_keys, variables, rows["image"], cond)
        latents = jax.random.normal(keys.root_key(0), (8, *(model.spec.latent_shape or rows["image"].shape[1:])))
        if model.encode is not None:
            latents = found["encode"] = model.encode(example_keys, variables, rows["image"], cond)
        if model.decode is not None:
            found["decode"] = model.decode(variables, latents, cond)
        return found

    found, mixed = (host(apply(variables, jax.tree.map(lambda x, o=o: x[o], rows))) for o in (numbers, order))
    assert sorted(found) == sorted(capabilities)
    for name, value in found.items():
        if name == "decode" and "encode" not in found:
            continue  # its latents were not put into the other order
        np.testing.assert_allclose(mixed[name], value[order], atol=1e-5, rtol=1e-4, err_msg=name)
        assert len({row.tobytes() for row in value}) == 8, f"{name} gives two different examples the same"
    images = rows["image"].shape
    latents = (8, *(model.spec.latent_shape or images[1:]))
    shapes = {"denoise": images, "log_prob": (8,), "encode": latents, "decode": images}
    assert {name: value.shape for name, value in found.items()} == {name: shapes[name] for name in found}
    assert all(np.isfinite(value).all() for value in found.values())
    assert (model.log_prob is None) == (model.spec.likelihood is None)


def check_sections(config: ConfigDict) -> None:
    """What the train command checks before it computes anything."""
    settings = parse(config)
    experiments.build(settings, experiments.spec_of(experiments.load_data(settings, "train")))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_unknown_config_key_fails_by_name(name):
    config = config_on(name, "one")
    check_sections(config)
    for section in [key for key, value in config.items() if isinstance(value, ConfigDict)]:
        broken = config.copy_and_resolve_references().unlock()
        broken[section].no_such_setting = 1
        with pytest.raises(ValueError, match=f"{section}.*no_such_setting"):
            check_sections(broken)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_variant_in_the_docstring_can_be_had_and_no_other(name):
    module = importlib.import_module(f"configs.{name}")
    with pytest.raises(ValueError, match="no variant 'absent'") as refusal:
        module.get_config("absent")
    variants = str(refusal.value).partition("this config has ")[2].rstrip(".").split(", ")
    assert "tiny" in variants
    for variant in variants:
        assert isinstance(module.get_config(variant), ConfigDict)

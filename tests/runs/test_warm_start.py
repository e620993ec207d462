"""Runs that start from the weights of another one: what is taken by name, on every layout, and what is refused."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
import untrained_runs
from launching import contents
from tiny_runs import LAYOUTS, config_on, make_tiny, state_of

import jaxgen
from jaxgen.core import trees
from jaxgen.runs import experiment as experiments
from jaxgen.runs import warm_start
from jaxgen.runs.config_files import with_settings
from jaxgen.runs.warm_start import compare
from jaxgen.training import checkpoint
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.durability import restoring
from jaxgen.training.workdir import save_config

pytestmark = pytest.mark.xdist_group("runs")

QUIET = {"log.tensorboard": False, "parallel.num_devices": 1, "evaluate.num_samples": 0}
OTHER = {"vae.latent_dim": 6, "vae.learn_sigma": True, "ema.warmup": False, "ema.decay": 0.75, "data.batch_size": 8}
"""Settings of a model with other shapes at its latents, and a parameter that the first one does not have."""

MISSHAPEN = ("params/decoder/hidden/kernel", "params/encoder/out/bias", "params/encoder/out/kernel")


@pytest.fixture(scope="module")
def other(config):
    return with_settings(config, {**QUIET, **OTHER})


@pytest.fixture(scope="module")
def arrays(run):
    """Those of the finished run, by name; the averages are others than the parameters."""
    named = trees.named_leaves(jax.tree.map(np.asarray, run.restore()[0]))
    assert not np.array_equal(named["params/encoder/hidden/kernel"], named["ema/params/encoder/hidden/kernel"])
    return named


def find(config, source, directory, **settings):
    """What a run of a config in a directory starts from, and the run."""
    tiny = make_tiny(with_settings(config, {"train.init_from": str(source), **settings}))
    train = tiny.experiment.settings.train
    return warm_start.find(train, experiments.target(tiny.experiment), directory), tiny


def test_arrays_are_compared_by_name_and_shape():
    here = {
        "step": (),
        "params/a": (2,),
        "params/b": (3,),
        "params/new": (4,),
        "model_state/m": (5,),
        "params/no": (1,),
    }
    here |= {"ema/params/a": (2,), "ema/params/b": (3,), "ema/params/new": (4,), "ema/model_state/m": (5,)}
    there = {"params/a": (2,), "params/b": (9,), "model_state/m": (5,), "opt_state/0/mu/a": (2,), "params/no": (1,)}
    there |= {"step": (), "ema/params/a": (2,), "ema/params/b": (9,), "params/old": (7,), "params/no/old": (7,)}
    assert compare(here, there, (r"params/\w+|params/a", "model_state/.*")) == warm_start.Comparison(
        taken={name: name for name in ("params/a", "model_state/m", "params/no")},
        averages={"ema/params/a": "ema/params/a", "ema/model_state/m": "model_state/m"},
        new=("params/new",),
        left_over=("params/old",),
        misshapen=("params/b (9,) there and (3,) here",),
        excluded=(),
    )
    chosen = compare(here, there, ("params/(a|b|old)",))
    assert list(chosen.taken) == ["params/a"]
    assert list(chosen.averages) == ["ema/params/a"]
    assert chosen.excluded == ("params/new", "model_state/m", "params/no")
    assert chosen.left_over == ("params/old",)


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        (["", "1/"], ["", "1/"], ["ema/params/a", "ema/1/params/a"]),
        (["0/", "1/"], [""], ["ema/params/a", "ema/params/a"]),
        (["0/", "1/"], ["0/"], ["ema/0/params/a", "ema/0/params/a"]),
        ([""], ["0/", "1/"], ["ema/0/params/a"]),
        (["", "0/"], [], ["params/a", "params/a"]),
    ],
)
def test_averages_are_those_of_one_name_or_what_evaluation_sees_or_the_parameters(here, there, expected):
    ours, theirs = ({f"ema/{width}params/a": (2,) for width in widths} | {"params/a": (2,)} for widths in (here, there))
    assert list(compare(ours, theirs, (".*",)).averages.values()) == expected


POWER = {"ema.kind": "power", "ema.decay": 0.9999}
"""Two averages of each parameter, of which the other run has one."""


@pytest.mark.parametrize(
    ("layout", "averages"), [("one", POWER), ("data x fsdp", POWER), ("fsdp x tensor", {}), ("pmap", {})]
)
def test_what_fits_is_taken_and_the_rest_is_initialized_on_every_layout(
    other, workdir, arrays, tmp_path, layout, averages
):
    changed = with_settings(other, {"parallel.num_devices": None, **averages})
    changed.parallel.update(LAYOUTS[layout])
    if changed.parallel.fsdp != 1:
        changed.parallel.min_shard_elements = 1
    start, tiny = find(changed, workdir, tmp_path)
    fresh = tiny.init()
    begun = warm_start.runner_from(tiny.runner, start).init(tiny.put(0))
    jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim) or pytest.fail(str(a)), fresh, begun)
    distinct = {leaf.unsafe_buffer_pointer() for leaf in map(_first_shard, jax.tree.leaves(begun))}
    assert len(distinct) == len(jax.tree.leaves(begun))  # each is donated to the first update
    begun, fresh = (trees.named_leaves(state_of(tiny, state)) for state in (begun, fresh))
    anew = {*MISSHAPEN, "params/log_sigma"}
    assert set(start.comparison.taken) == {name for name in begun if name.startswith("params/")} - anew
    for name, leaf in begun.items():
        there = re.sub(r"^ema/\d/", "ema/", name)
        own = there.removeprefix("ema/")
        taken = own in arrays and own.startswith("params/") and own not in anew
        np.testing.assert_array_equal(leaf, arrays[there] if taken else fresh[name], err_msg=name)
    assert begun["step"] == 0


def _first_shard(leaf):
    return leaf.addressable_data(0)


def test_only_what_is_taken_is_read(workdir, monkeypatch):
    wanted = ["params/encoder/hidden/kernel", "ema/params/encoder/hidden/bias"]
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = checkpoint.saved_shapes(workdir, 4)
    asked = []
    restore = restoring.ocp.PyTreeCheckpointer.restore

    def spy(self, path, args):
        asked.extend(n for n, x in trees.named_leaves(args.item).items() if x is not restoring.ocp.PLACEHOLDER)
        return restore(self, path, args=args)

    monkeypatch.setattr(restoring.ocp.PyTreeCheckpointer, "restore", spy)
    structs = {name: jax.ShapeDtypeStruct(shapes[name], np.float32, sharding=sharding) for name in wanted}
    assert sorted(checkpoint.load_arrays(workdir, 4, structs)) == sorted(asked) == sorted(wanted)


def test_what_is_frozen_is_that_of_the_new_run(tmp_path):
    """A student, which started with another seed than the run that it is compared with."""
    teacher = untrained_runs.make(tmp_path / "teacher", "sit:tiny", classes=10)
    config = config_on("consistency", "data x fsdp")
    config.model, config.consistency.start_from_teacher = jaxgen.config("sit:tiny").model, False
    config.frozen.teacher = str(teacher)
    source = make_tiny(with_settings(config, {"seed": 3}))
    begun = source.runner.to_contract(source.init())
    (tmp_path / "a").mkdir()
    save_config(tmp_path / "a", source.config)
    with Checkpoints(tmp_path / "a") as checkpoints:
        checkpoints.save(0, begun, source.config)
    start, tiny = find(config, tmp_path / "a", tmp_path / "b")
    state = tiny.runner.to_contract(warm_start.runner_from(tiny.runner, start).init(tiny.put(0)))
    assert len(jax.tree.leaves(state.frozen)) > 2
    jax.tree.map(np.testing.assert_array_equal, state, begun)


@pytest.fixture(scope="module")
def source(config, tmp_path_factory):
    """A run that tests may change, with a checkpoint of each step."""
    settings = {"train.checkpoint_every_steps": 1, "train.steps_per_dispatch": 1, "train.keep_checkpoints": 9}
    settings |= {"train.sample_every_steps": 100}
    return jaxgen.train(with_settings(config, {**QUIET, **settings}), tmp_path_factory.mktemp("source") / "a").directory


def test_a_run_starts_records_where_from_and_goes_on_without_it(other, source, tmp_path):
    """With a learning rate of zero and a constant decay the averages after each step are known."""
    said, target = [], tmp_path / "b"
    config = with_settings(other, {"optimizer.learning_rate": 0.0})
    config.train.init_include = ("params/encoder/.*", "params/decoder/out/.*")
    run = jaxgen.train(config, target, init_from=source, say=said.append)
    state, begun = (trees.named_leaves(jaxgen.open(d).restore()[0]) for d in (target, source))
    name = "params/encoder/hidden/kernel"
    np.testing.assert_array_equal(state[name], begun[name])
    average = 0.75**4 * begun[f"ema/{name}"] + (1 - 0.75**4) * begun[name]
    np.testing.assert_allclose(state[f"ema/{name}"], average, rtol=1e-5)
    assert not np.array_equal(state["params/decoder/conv_0/kernel"], begun["params/decoder/conv_0/kernel"])
    assert said[:4] == [
        f"Starts from {source} at step 4: 9 arrays, 9 averages.",
        "Arrays of another shape there and initialized: 2 (params/encoder/out/bias (8,) there and (12,) here, "
        "params/encoder/out/kernel (8, 8) there and (8, 12) here).",
        "Arrays not in train.init_include and initialized: 8 (params/decoder/base/bias, params/decoder/base/kernel, "
        "params/decoder/conv_0/bias, params/decoder/conv_0/kernel, params/decoder/hidden/bias and 3 more).",
        said[3],
    ]
    assert said[3].startswith("Data: ")
    recorded = json.loads((target / "init_from.json").read_text())
    assert recorded == {"run": str(source), "step": 4, "digest": checkpoint.digest(source, 4)}
    assert run.config.train.init_from == str(source)

    shutil.rmtree(target / "checkpoints" / "4")
    moved = source.rename(tmp_path / "moved")
    said.clear()
    try:
        jaxgen.train(run.config, target, say=said.append)
    finally:
        moved.rename(source)
    assert "Resumed at step 2." in said
    again = trees.named_leaves(jaxgen.open(target).restore()[0])
    jax.tree.map(np.testing.assert_array_equal, again, state)
    with pytest.raises(ValueError, match=r"has started from step 4 of .*/a, which is not in elsewhere: give that path"):
        jaxgen.train(run.config, target, init_from="elsewhere")


def test_a_run_that_died_before_its_first_checkpoint_starts_from_the_same_one(other, source, tmp_path):
    (tmp_path / "init_from.json").write_text(
        json.dumps({"run": str(source), "step": 2, "digest": checkpoint.digest(source, 2)})
    )
    assert find(other, source, tmp_path)[0].origin.step == 2
    (tmp_path / "init_from.json").write_text(json.dumps({"run": str(source), "step": 2, "digest": "0"}))
    with pytest.raises(ValueError, match=r"checkpoint of step 2 in .* is another than the one that"):
        find(other, source, tmp_path)
    (tmp_path / "init_from.json").write_text("{")
    with pytest.raises(ValueError, match=r"init_from\.json cannot be read \(.*\): choose another --workdir"):
        find(other, source, tmp_path)


def test_a_run_that_has_begun_finds_its_source_under_another_path_by_the_digest_alone(workdir, tmp_path):
    recorded = {"run": "old/path", "step": 4, "digest": checkpoint.digest(workdir, 4)}
    for changes, fits in (({}, True), ({"digest": "0"}, False), ({"step": 3}, False)):
        (tmp_path / "init_from.json").write_text(json.dumps(recorded | changes))
        for path in ("old/path", str(workdir)):
            if fits or path == "old/path":
                warm_start._check_moved(path, tmp_path)
            else:
                with pytest.raises(
                    ValueError, match=rf"from step {(recorded | changes)['step']} of old/path, which is no"
                ):
                    warm_start._check_moved(path, tmp_path)


def test_a_damaged_checkpoint_is_not_started_from(other, source, tmp_path):
    file = max((source / "checkpoints" / "4").rglob("*"), key=lambda path: path.stat().st_size)
    whole = file.read_bytes()
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    try:
        assert find(other, source, tmp_path)[0].origin.step == 3
    finally:
        file.write_bytes(whole)
    assert find(other, source, tmp_path)[0].origin.step == 4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train.init_from": "nowhere"}, r"nowhere holds no run \(no config\.json\)"),
        (
            {"train.init_include": "params/hed/.*"},
            r"init_include has the pattern 'params/hed/\.\*', which matches nothi",
        ),
        ({"train.init_include": "("}, r"init_include is '\(', which is no regular expression"),
        (
            {"train.init_include": "params/encoder/out/bias"},
            r"Nothing of .* fits this run by name and shape: there are params/encoder/out/bias \(8,\) there and \(12",
        ),
        (
            {"train.init_include": "params/log_sigma"},
            r"Nothing of .* fits this run by name and shape: there are params/log_sigma here, and none there\.",
        ),
        ({"train.init_include": 3}, r"train\.init_include is 3, but must be of type str"),
        (
            {"train.init_from": None, "train.init_include": "a"},
            r"init_include is 'a', but has no effect without train\.i",
        ),
    ],
)
def test_what_cannot_be_started_from_is_refused_before_anything_is_written(
    other, workdir, tmp_path, settings, sentence
):
    before = contents(workdir)
    with pytest.raises(ValueError, match=sentence):
        jaxgen.train(with_settings(other, {"train.init_from": str(workdir), **settings}), tmp_path / "run")
    assert not list(tmp_path.iterdir())
    assert contents(workdir) == before


def test_a_run_without_a_checkpoint_is_refused(other, workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "a", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(ValueError, match="a has no whole checkpoint: train first"):
        jaxgen.train(other, tmp_path / "b", init_from=tmp_path / "a")
    assert not (tmp_path / "b").exists()

"""A run as it is used from Python."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import launch

import jaxgen
from jaxgen.core import images, keys
from jaxgen.core.conditioning import classes, vector
from jaxgen.core.contract import ModelSpec
from jaxgen.data import load, read_arrays
from jaxgen.runs import experiment as experiments
from jaxgen.runs.opened import Run
from jaxgen.runs.settings import parse
from jaxgen.training.workdir import load_config

pytestmark = pytest.mark.xdist_group("runs")

GIVEN = read_arrays(load("digits", "test"), limit=6)
PIXELS, LABELS = GIVEN["image"], GIVEN["label"]
CONDITIONAL = ModelSpec((8, 8, 1), {"label": classes(10)})


def by_command(workdir, output, *arguments):
    outcome = launch("sample", f"--workdir={workdir}", f"--output={output}", *arguments)
    assert outcome.code == 0, outcome.err
    with np.load(output) as arrays:
        return dict(arrays)


def test_samples_are_those_of_the_command(run, workdir, tmp_path):
    one = by_command(workdir, tmp_path / "one.npz", "--num_samples=5", "--labels=3", "--seed=2")
    drawn = run.sample(5, seed=2, label=3)
    assert (drawn.dtype, drawn.shape) == (np.uint8, (5, 8, 8, 1))
    np.testing.assert_array_equal(drawn, one["images"])
    assert (drawn != run.sample(5, label=3)).any()
    np.testing.assert_array_equal(run.sample(5, label=3), run.sample(5, seed=0, label=3))

    balanced = by_command(workdir, tmp_path / "balanced.npz", "--num_samples=12")
    np.testing.assert_array_equal(run.sample(12), balanced["images"])
    np.testing.assert_array_equal(run.labels(12), balanced["labels"])


def test_labels_are_one_class_or_several_in_turn(run):
    assert run.labels(3, 7).tolist() == run.labels(3, np.int64(7)).tolist() == [7, 7, 7]
    assert run.labels(5, [3, 8]).tolist() == run.labels(5, np.array([3, 8])).tolist() == [3, 8, 3, 8, 3]
    assert run.labels(12).tolist() == [*range(10), 0, 1]
    assert run.labels(2, 0).tolist() == [0, 0]
    mixed = run.sample(2, label=[3, 8])
    np.testing.assert_array_equal(mixed[0], run.sample(1, label=3)[0])
    np.testing.assert_array_equal(mixed[1], run.sample(2, label=8)[1])


def test_progress_is_told_after_each_batch(workdir):
    done = []
    jaxgen.open(workdir, **{"sample.batch_size": 8}).sample(20, on_batch=done.append)
    assert done == [8, 16, 20]


def test_a_checkpoint_and_settings_can_be_chosen(run, workdir):
    early = jaxgen.open(workdir, step=2, **{"sample.batch_size": 16})
    assert (early.step, run.step) == (2, 4)
    assert (early.config.sample.batch_size, run.config.sample.batch_size) == (
        16,
        load_config(workdir).sample.batch_size,
    )
    assert early.batch_size == 16
    assert (early.sample(64) != run.sample(64)).any()
    state, step = early.restore()
    assert step == state.step == 2


def test_the_config_is_the_runs_and_cannot_be_changed(run, config):
    assert run.config.to_dict() == config.to_dict()
    with pytest.raises(AttributeError, match="immutable"):
        run.config.train.num_steps = 3


def test_the_model_and_its_variables_go_into_programs_of_the_user(run):
    key = keys.stream(keys.root_key(0), "sample")
    row_keys = keys.per_example(key, jnp.arange(8))
    cond = {"label": jnp.full(8, 3, jnp.int32)}
    drawn = jax.jit(run.model.sample)(row_keys, run.variables, cond)
    ours, theirs = images.to_levels(np.asarray(drawn), 17), run.sample(8, label=3)
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # of another program, rounded differently
    state, _ = run.restore()
    jax.tree.map(np.testing.assert_array_equal, run.model.eval_variables(state), run.variables)


def test_nothing_is_read_before_it_is_needed(config, tmp_path):
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run", config)
    assert "run" in repr(run)
    with pytest.raises(ValueError, match=r"data\.json cannot be read"):
        run.sample(4)


def test_data_are_the_split_of_the_run(run):
    for split, count in (("train", 1437), ("test", 360)):
        arrays = read_arrays(run.data(split))
        expected = read_arrays(load("digits", split))
        assert len(arrays["image"]) == count
        jax.tree.map(np.testing.assert_array_equal, arrays, expected)


def test_latents_are_those_of_the_model(run):
    latents = run.encode(PIXELS, labels=LABELS)
    cond = {"label": jnp.asarray(LABELS)}
    row_keys = jax.random.split(jax.random.key(0), 6)  # this model's latents are means
    expected = run.model.encode(row_keys, run.variables, images.to_float(jnp.asarray(PIXELS), levels=17), cond)
    np.testing.assert_allclose(latents, expected, atol=1e-4)
    assert latents.shape == (6, *run.spec.latent_shape)
    other = np.roll(LABELS, 1)
    assert np.abs(run.encode(PIXELS, labels=other) - latents).max() > 1e-3

    decoded = run.model.decode(run.variables, expected, cond)
    rebuilt = run.decode(latents, labels=LABELS)
    assert rebuilt.dtype == np.uint8
    assert np.abs(rebuilt.astype(int) - images.to_levels(np.asarray(decoded), 17)).max() <= 1
    far = 100.0 * latents  # the model has hardly begun to learn, and its levels are few
    assert (run.decode(far, labels=other) != run.decode(far, labels=LABELS)).any()


def test_latents_that_are_drawn_are_functions_of_seed_and_number(run, monkeypatch):
    def draw(row_keys, variables, images, cond):
        return jax.vmap(lambda key: jax.random.normal(key, (3,)))(row_keys)

    monkeypatch.setattr(Run, "model", run.model._replace(encode=draw))
    for seed in (0, 5):
        row_keys = keys.per_example(keys.stream(keys.root_key(seed), "encode"), jnp.arange(6))
        expected = draw(row_keys, None, None, None)
        np.testing.assert_allclose(run.encode(PIXELS, labels=LABELS, seed=seed), expected, rtol=1e-6)
    np.testing.assert_allclose(run.encode(PIXELS, labels=LABELS), run.encode(PIXELS, labels=LABELS, seed=0))


def test_likelihoods_are_those_that_the_evaluation_averages(run, workdir):
    held_out = read_arrays(run.data("test"))
    nats = run.log_prob(held_out["image"], labels=held_out["label"])
    assert nats.shape == (360,)
    figures = jaxgen.evaluate(run, num_samples=16, num_likelihood=360)
    bits = -nats.mean() / np.log(2) / 64
    assert figures["bits_per_dim"]["value"] == pytest.approx(bits, rel=1e-4)
    assert (run.log_prob(PIXELS, labels=np.roll(LABELS, 1)) != run.log_prob(PIXELS, labels=LABELS)).any()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda run: run.sample(0), "The number of samples is 0, but must be at least 1"),
        (lambda run: run.sample(2, label=10), "has no class 10; its classes are the numbers from 0 to 9"),
        (lambda run: run.sample(2, label=[3, -1]), "has no class -1"),
        (lambda run: run.data("valid"), "valid"),
        (lambda run: run.encode(PIXELS), "conditional: give labels, one of the 10 classes an image"),
        (lambda run: run.encode(PIXELS, labels=[1, 2]), r"int64 of shape \(2,\), but must be 6 whole numbers"),
        (lambda run: run.encode(PIXELS, labels=LABELS * 1.0), "float64 of shape"),
        (lambda run: run.log_prob(PIXELS, labels=[0, 1, 2, 3, 4, 10]), r"from 0 to 10, but must lie in \[0, 10\)"),
        (lambda run: run.log_prob(PIXELS, labels=[0, 1, 2, 3, 4, -1]), "from -1 to 4"),
        (lambda run: run.encode(PIXELS / 255, labels=LABELS), "float64 of shape .* but must be uint8 of shape"),
        (lambda run: run.log_prob(PIXELS[:, :4], labels=LABELS), r"\(6, 4, 8, 1\), but must be uint8 of shape"),
        (lambda run: run.encode(PIXELS[:0], labels=LABELS[:0]), r"shape \(0, 8, 8, 1\)"),
        (lambda run: run.decode(np.zeros((6, 3)), labels=LABELS), r"\(6, 3\), but must be of shape \('n', 4\)"),
        (lambda run: jaxgen.evaluate(run, num_sample=3), "num_sample is not a setting.* Did you mean num_samples"),
        (lambda run: jaxgen.evaluate(run, k=0), r"evaluate\.k is 0, but must be at least 1"),
        (lambda run: jaxgen.open(run.directory, step=3).step, "no checkpoint of step 3; it has 4, 2"),
        (lambda run: jaxgen.open(run.directory, **{"sample.size": 3}), r"sample\.size is not a setting"),
        (lambda run: jaxgen.open(run.directory, **{"sample.batch_size": 0}), r"sample\.batch_size is 0"),
        (lambda run: jaxgen.open(run.directory / "none"), r"holds no run \(no config\.json\)"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_sentence(run, call, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        call(run)
    assert "\n" not in str(refused.value)


def unable(config, monkeypatch, spec, **capabilities):
    """A run whose model has these capabilities only."""
    run = Run(Path("nowhere"), config)
    model = experiments.build(parse(config), CONDITIONAL).model
    lacking = dict.fromkeys(("log_prob", "encode", "decode"), None) | capabilities
    monkeypatch.setattr(Run, "model", model._replace(spec=spec, **lacking))
    return run


def test_what_a_model_lacks_is_refused(config, monkeypatch):
    run = unable(config, monkeypatch, CONDITIONAL)
    for call, sentence in (
        (lambda: run.encode(PIXELS, labels=LABELS), "Encoding needs a model with encode, which"),
        (lambda: run.decode(np.zeros((6, 2)), labels=LABELS), "Decoding needs a model with decode, which"),
        (lambda: run.log_prob(PIXELS, labels=LABELS), "The likelihood needs a model with log_prob, which"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_an_unconditional_model_takes_no_labels(config, monkeypatch):
    run = unable(config, monkeypatch, ModelSpec((8, 8, 1)), encode=lambda *arguments: None)
    assert run.labels(3) is None
    with pytest.raises(ValueError, match="unconditional: it takes no labels"):
        run.labels(3, 1)
    with pytest.raises(ValueError, match="unconditional: give no labels"):
        run.encode(PIXELS, labels=LABELS)


def test_without_labels_a_model_that_knows_the_null_condition_is_given_it(run, monkeypatch):
    def tell(row_keys, variables, images, cond):
        return cond["label"] + 0.5

    spec = run.spec._replace(conditioning={"label": classes(10, null=True)})
    monkeypatch.setattr(Run, "model", run.model._replace(spec=spec, encode=tell))
    np.testing.assert_array_equal(run.encode(PIXELS), np.full(6, 10.5))
    np.testing.assert_array_equal(run.encode(PIXELS, labels=LABELS), LABELS + 0.5)


def test_a_second_call_compiles_nothing(run, monkeypatch):
    traced = []

    def tell(row_keys, variables, images, cond):
        traced.append("encode")
        return images[:, 0, 0] + cond["label"][:, None]

    def draw(variables, latents, cond):
        traced.append("decode")
        return jnp.tile(latents[:, None, None, :1], (1, 8, 8, 1))

    monkeypatch.setattr(Run, "model", run.model._replace(encode=tell, decode=draw))
    for seed in (0, 1):
        run.encode(PIXELS, labels=LABELS, seed=seed)
        run.decode(np.zeros((6, *run.spec.latent_shape)), labels=LABELS)
    assert traced == ["encode", "decode"]


def test_samples_can_be_told_more_than_the_class(run, monkeypatch):
    def tell(row_keys, variables, cond):
        told = (
            0.1 * cond["label"]
            + 0.01 * cond.get("color", 8)
            + 0.2 * cond.get("position", jnp.zeros((len(row_keys), 2)))[:, 1]
        )
        return jnp.broadcast_to(told[:, None, None, None], (len(told), 8, 8, 1))

    conditions = {"label": classes(10, null=True), "color": classes(8, null=True), "position": vector(2, null=True)}
    spec = run.spec._replace(conditioning=conditions, levels=256)
    monkeypatch.setattr(Run, "model", run.model._replace(spec=spec, sample=tell))
    monkeypatch.setattr(run, "batch_size", 3)
    for cond, told in (
        ({"color": 5}, [0.15, 0.25, 0.35]),
        ({"color": [7, 0, 2]}, [0.17, 0.2, 0.32]),
        ({}, [0.18, 0.28, 0.38]),
        ({"color": np.array(3), "position": [0.0, -1.0]}, [-0.07, 0.03, 0.13]),
        ({"position": np.array([[9.0, 1.0], [9.0, 0.5], [9.0, 0.0]])}, [0.38, 0.38, 0.38]),
    ):
        drawn = run.sample(3, label=[1, 2, 3], cond=cond)[:, 0, 0, 0]
        np.testing.assert_allclose(drawn, (np.array(told) + 1) * 127.5, atol=0.51)
    for cond, sentence in (
        ({"colour": 5}, "was given 'colour', but takes label, color, position"),
        ({"color": 8}, "'color' has the value 8, but must lie in 0 to 7"),
        ({"color": [1, 2]}, r"'color' is int64 of shape \(2,\), but must be whole numbers of shape \(\), or \(3,\)"),
        ({"color": 1.5}, r"'color' is float64 of shape \(\), but must be whole numbers"),
        ({"position": [1.0, np.nan]}, "'position' has values that are not finite"),
        ({"label": 3}, "the class is given by the argument of that name"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run.sample(3, label=1, cond=cond)

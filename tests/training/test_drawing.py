"""Grids of samples during training, by a clock that the sampler moves."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import finished

from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sampling
from jaxgen.training import drawing
from jaxgen.training.drawing import Budget, GridSettings, SampleGrids
from jaxgen.training.logging import Log, Progress

SHAPE = (2, 2, 1)
NAMES = tuple("abcde")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Recorder(Log, Progress):
    """The log and the progress of a run."""

    def __init__(self):
        self.pictures, self.said, self.work = [], [], []

    def images(self, name, step, images, *, columns, labels, class_names):
        assert (name, columns, class_names) == ("samples", 10, NAMES)
        np.testing.assert_array_equal(labels, np.arange(len(images)) % 5)
        self.pictures.append((step, images))

    def say(self, text):
        self.said.append(text)

    @contextlib.contextmanager
    def working(self, text):
        self.work.append(text)
        yield


@pytest.fixture
def made(monkeypatch):
    """Makes grids whose batches take these seconds in turn, the first one `compiling` seconds more."""
    draw = sampling.draw_batches

    def make(
        *seconds, compiling=0.0, count=80, share=0.05, batch_size=250, seed=0, interrupted=lambda: False, sample=None
    ):
        clock, record = Clock(), Recorder()
        wait, times = [compiling], itertools.cycle(seconds)

        def slow(*arguments, **options):
            for batch in draw(*arguments, **options):
                clock.now += next(times)
                if wait:
                    clock.now += wait[0]
                    drawing._add_compilation("/jax/core/compile/backend_compile_duration", duration_secs=wait.pop())
                yield batch

        monkeypatch.setattr(sampling, "draw_batches", slow)
        model = finished(lambda *arguments: None, SHAPE, 5)._replace(sample=sample or images_of)
        settings = GridSettings(count, share, batch_size, seed, NAMES)
        mesh = meshes.make_mesh(1)
        grids = SampleGrids(settings, model, mesh, log=record, progress=record, interrupted=interrupted, clock=clock)
        return grids, clock, record

    return make


def images_of(keys, variables, cond=None):
    return jnp.broadcast_to(cond["label"][:, None, None, None] / 5 + variables, (len(keys), *SHAPE))


def sizes(record):
    return [(step, len(images)) for step, images in record.pictures]


def test_a_cheap_grid_is_whole_and_nothing_is_said(made):
    grids, clock, record = made(0.5, compiling=100.0)
    for step in (10, 20, 30):
        clock.now += 1.0
        grids.draw(step, 0.0)
    assert sizes(record) == [(10, 80), (20, 80), (30, 80)]
    assert record.said == []
    assert record.work == ["drawing 80 images"] * 3


def test_compilation_is_not_counted(made):
    """Two grids of 5 s are within the 10 s that are free, whatever their compilation takes; a third one is not."""
    grids, _, record = made(1.0, compiling=500.0)
    for step in (10, 20, 30):
        grids.draw(step, 0.0)
    assert sizes(record) == [(10, 80), (20, 80)]
    assert len(record.said) == 1
    assert "takes about 5 s here: that of step 30 is left out" in record.said[0]


def test_a_dear_grid_has_the_first_images_or_is_left_out_which_is_said_once(made):
    grids, clock, record = made(8.0)
    spent, whole = [], images_of(np.arange(80), 0.1, {"label": np.arange(80) % 5})
    for step in range(100, 2_100, 100):
        clock.now += 100.0
        before = clock.now
        grids.draw(step, 0.1)
        spent.append(clock.now - before)
    assert spent[0] == 8.0  # of the 10 s that are free and the 5 % of 100 s
    trained = 100.0 * len(spent)
    assert 0.9 * (10 + 0.05 * trained) <= sum(spent) <= 10 + 0.05 * trained
    assert [record.said[0]] == record.said
    assert "A grid of 80 samples takes about 40 s here: that of step 100 has 16 of 80 images" in record.said[0]
    assert "5% of the time of training. To draw all: train.sample_share=None." in record.said[0]
    for _, images in record.pictures:
        assert len(images) % 16 == 0
        np.testing.assert_array_equal(images, np.rint((np.asarray(whole) + 1) * 127.5).astype(np.uint8)[: len(images)])


def test_a_larger_share_draws_more_and_no_limit_draws_all(made):
    drawn = []
    for share in (0.05, 0.5, None):
        grids, clock, record = made(8.0, share=share)
        for step in (100, 200, 300):
            clock.now += 60.0
            grids.draw(step, 0.0)
        drawn.append(sum(size for _, size in sizes(record)))
        assert (record.said == []) == (share is None)
    assert drawn == [32, 192, 240]


def test_the_number_of_images_is_a_setting(made):
    for count in (1, 16, 33):
        grids, _, record = made(0.1, count=count)
        grids.draw(10, 0.0)
        assert sizes(record) == [(10, count)]
        assert record.work == [f"drawing {count} images"]


def test_the_last_grid_is_drawn_in_any_case(made):
    grids, _, record = made(1_000.0)
    grids.draw(10, 0.0)
    grids.draw(20, 0.0)
    grids.draw(30, 0.0, always=True)
    assert sizes(record) == [(10, 16), (30, 16)]


def test_an_interruption_ends_the_drawing_after_the_batch(made):
    grids, _, record = made(0.1, interrupted=lambda: bool(record.work))
    grids.draw(10, 0.0)
    assert sizes(record) == [(10, 16)]
    grids.draw(20, 0.0)
    assert (sizes(record), record.said) == ([(10, 16)], [])  # not for want of time


def test_other_devices_draw_a_grid_in_one_call(made, monkeypatch):
    grids, _, record = made(0.1)
    monkeypatch.setattr(drawing, "CPU_BATCH", 7)
    assert grids._batch_size() == 7
    monkeypatch.setattr(SampleGrids, "_on_cpu", lambda self: False)
    assert grids._batch_size() == 80
    small, _, _ = made(0.1, batch_size=5)
    assert small._batch_size() == 5
    grids.draw(10, 0.0)
    assert sizes(record) == [(10, 80)]


def test_images_that_are_not_finite_are_said(made):
    grids, _, record = made(0.1, sample=lambda keys, variables, cond=None: jnp.full((len(keys), *SHAPE), jnp.nan))
    grids.draw(10, 0.0)
    assert record.pictures == []
    assert record.said[0].startswith("warning: no samples of step 10: 16 of 16 images are not finite")


def test_the_budget_is_a_share_of_the_time_of_training_alone():
    clock = Clock()
    budget = Budget(0.1, clock=clock)
    clock.now = 100.0
    assert budget.allows(20.0)
    assert not budget.allows(20.1)
    clock.now = 160.0
    budget.spend(60.0, compiling=45.0)  # 15 s of drawing, and 100 s of training still
    assert budget.allows(5.0)
    assert not budget.allows(5.1)
    assert Budget(None, clock=clock).allows(1e9)


def test_compilation_by_several_threads_is_no_time_that_is_given_back():
    budget = Budget(0.0, clock=Clock())
    budget.spend(1.0, compiling=5.0)
    assert budget.allows(10.0)
    assert not budget.allows(10.1)


def test_the_fastest_batch_so_far_says_how_long_the_next_one_takes(made):
    grids, _, record = made(1.0, 8.0, 1.0)
    grids.draw(10, 0.0)
    assert sizes(record) == [(10, 48)]  # 10 s of the 10 s that are free


def test_a_grid_has_the_images_of_its_seed(made):
    def noise(keys, variables, cond=None):
        return jnp.tanh(jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys) + variables)

    grids, _, record = made(0.1, count=10, seed=3, sample=noise)
    grids.draw(10, 0.5)
    labels, mesh = np.arange(10, dtype=np.int32) % 5, meshes.make_mesh(1)
    expected = sampling.draw_batches(grids._model, 0.5, labels, count=10, seed=3, mesh=mesh, batch_size=10)
    np.testing.assert_array_equal(record.pictures[0][1], next(expected))


def test_compilation_is_measured():
    before = drawing._compiled
    jax.jit(lambda x: x * 3 + 2)(jnp.arange(5))
    assert drawing._compiled > before

"""Plans, without the compilation of any update; `tests/cli/test_plan_command.py` compiles some."""

import jax
import jax.numpy as jnp
import pytest
from specs import data_spec

from configs import vae
from jaxgen.data.dataset import Facts, label_of
from jaxgen.parallel import plan
from jaxgen.parallel.runner import Compiled
from jaxgen.runs import experiment as experiments
from jaxgen.runs import planning
from jaxgen.runs.config_files import read_only
from jaxgen.runs.settings import parse
from jaxgen.training import workdir


@pytest.fixture
def config():
    return vae.get_config("tiny")


@pytest.mark.parametrize(("devices", "factor"), [(1, 1), (2048, 1), (2049, 3), (4096, 2), (6150, 5)])
def test_a_program_is_compiled_for_the_largest_part_of_the_devices_that_divides_them(devices, factor):
    assert planning._factor(devices) == factor


def test_devices_batch_and_their_axis_shrink_together(config):
    config.data.batch_size = 48
    planning._shrink(config, 16, 2)
    assert (config.parallel.num_devices, config.data.batch_size, config.parallel.data) == (8, 24, -1)
    config.parallel.data = 4
    planning._shrink(config, 8, 2)
    assert (config.parallel.num_devices, config.data.batch_size, config.parallel.data) == (4, 12, 2)
    config.parallel.data = 3
    with pytest.raises(ValueError, match=r"data=3 must be multiples of 2, to plan for 4 devices"):
        planning._shrink(config, 4, 2)


@pytest.mark.parametrize(("dtype", "float32"), [("float32", True), ("bfloat16", False)])
def test_a_plan_for_twice_the_devices_that_there_are(config, dtype, float32, monkeypatch):
    """An update that is compiled for half of them has twice as many along `data`, whose distance is the other axes'."""
    monkeypatch.setattr(planning, "COMPILED_FOR", 8)
    build, grown = experiments.build, []
    program = jax.jit(lambda x: x + 1).lower(jnp.zeros(4)).compile()

    def quick(*arguments, **options):
        built = build(*arguments, **options)
        return built._replace(runner=built.runner._replace(compile=lambda *_: Compiled(print, None, None, program)))

    def record(read, *, factor, data):
        grown.append((factor, data))
        return read

    monkeypatch.setattr(experiments, "build", quick)
    monkeypatch.setattr(plan, "grown", record)
    config.train.compute_dtype = dtype
    made = planning.make(config, 16, Facts((8, 8, 1), label_of(10)), mesh=["data=4", " fsdp=2", "tensor=2"])
    assert grown == [(2, 4)]
    assert made.mesh == {"data": 4, "fsdp": 2, "tensor": 2}
    assert (made.devices, made.batch_size, made.float32) == (16, config.data.batch_size, float32)


def test_each_of_several_microbatches_is_split_over_the_devices(config):
    config.data.batch_size, config.train.microbatches = 32, 2
    experiment = experiments.build(parse(config), data_spec((8, 8, 1), 10))
    shapes = planning._batch(experiment)
    assert {name: leaf.shape for name, leaf in shapes.items()} == {
        "image": (1, 2, 16, 8, 8, 1),
        "index": (1, 2, 16),
        "label": (1, 2, 16),
    }
    assert shapes["image"].sharding.shard_shape(shapes["image"].shape) == (1, 2, 2, 8, 8, 1)


def test_what_is_frozen_is_a_run_or_since_no_arrays_are_needed_a_config(config, tmp_path):
    config.train.num_steps = 77
    workdir.save_config(tmp_path, read_only(config))
    assert planning._config_of(str(tmp_path)).train.num_steps == 77
    assert planning._config_of("configs/vae.py:tiny").train.num_steps == vae.get_config("tiny").train.num_steps != 77

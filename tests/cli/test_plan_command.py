"""`launch.py plan`, on the eight devices of the tests."""

import functools
import sys

import pytest
from launching import launch

from configs import dit, vae
from jaxgen.cli import main, plan, start
from jaxgen.core import trees
from jaxgen.data.dataset import Facts, label_of
from jaxgen.parallel.plan import splits
from jaxgen.runs import environment, planning

TINY = "--config=configs/vae.py:tiny"


def test_fsdp_divides_the_state_of_the_largest_transformer_by_the_devices():
    made = planning.make(dit.get_config("xl2"), 8, Facts((32, 32, 8), label_of(1000), "float32"), mesh=["fsdp=8"])
    state = made.target._replace(step=())
    on_device = sum(split.bytes for split in splits(state))
    assert trees.count(made.target.params) == 674_834_720
    assert on_device <= 1.05 / 8 * trees.num_bytes(state)
    batch = 256 * (32 * 32 * 8 + 2) * 4 / 8
    assert made.memory.arguments == pytest.approx(on_device + batch, rel=0.1)
    assert made.memory.peak == pytest.approx(made.memory.arguments + made.memory.temporaries, rel=0.01)
    # 119 GFLOP forward for two operations a pair, as much for each recomputation, twice in the backward pass.
    assert made.program.flops == pytest.approx(4 * 2 * 118.6e9 * 256 / 8, rel=0.02)


def test_a_plan_for_more_devices_than_can_be_compiled_for_is_that_of_all(monkeypatch):
    config = vae.get_config("tiny")
    config.data.batch_size = 512  # so large that the partitioner moves no activation to save a gather
    make = functools.partial(planning.make, config, 8, Facts((8, 8, 1), label_of(10)))
    whole = make(mesh=["data=4", "fsdp=2", "min_shard_elements=1"])
    monkeypatch.setattr(planning, "COMPILED_FOR", 4)
    grown = make(mesh=["data=4", "fsdp=2", "min_shard_elements=1"])
    assert (grown.mesh, grown.batch_size, grown.memory.arguments) == (whole.mesh, 512, whole.memory.arguments)
    assert grown.memory.peak == pytest.approx(whole.memory.peak, rel=0.02)  # larger groups, larger buffers
    assert grown.program.flops == whole.program.flops
    assert grown.program.collectives == whole.program.collectives


def test_the_command_says_what_an_update_takes(monkeypatch):
    outcome = launch("plan", TINY, "--devices=8", "--mesh=fsdp=4,min_shard_elements=1")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("8 devices (data 2 x fsdp 4 x tensor 1), batch 16\n")
    for words in ("parameters, optimizer and averages take", "of temporaries", "TFLOP", "all-gather", "h200", "fsdp;"):
        assert words in outcome.out
    assert "warning" not in outcome.out
    assert "frozen" not in outcome.out
    monkeypatch.setattr(plan, "ACCELERATORS", {"toy": plan.ACCELERATORS["h200"]._replace(memory=1.0)})
    assert "warning: this will not fit into toy. Try" in launch("plan", TINY, "--devices=1").out


def test_what_a_source_assumes_is_said():
    outcome = launch("plan", "--config=configs/latent.py:tiny", "--devices=1")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(
        "The data is not there: 32x32x8 with 1,000 classes are assumed. Or give --image_shape"
    )
    told = launch("plan", "--config=configs/latent.py:tiny", "--devices=1", "--image_shape=8,8,4", "--num_classes=3")
    assert told.code == 0, told.err
    assert "assumed" not in told.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "plan needs --devices=N, the number of devices to compile for"),
        (["--devices=0"], "--devices is 0, but must be at least 1"),
        (["--devices=9"], "There are 8 devices here, and the plan needs 9"),
        (["--devices=8", "--mesh=fsdp=3"], "parallel.fsdp=3, parallel.tensor=1 does not fit 8 devices"),
        (["--devices=8", "--mesh=width=2"], "config.parallel.width is not a setting"),
        (["--devices=8", "--config.parallel.mode=pmap"], "parallel.mode is pmap, whose programs are compiled when"),
        (["--devices=8", "--config.data.batch_size=12"], "A microbatch of 12 examples does not divide over 8 devices"),
        (
            ["--devices=4096", "--config.data.batch_size=17"],
            "data.batch_size=17 and parallel.data=-1 must be",
        ),
    ],
)
def test_plans_that_cannot_be_had_are_refused(arguments, sentence):
    outcome = launch("plan", TINY, *arguments)
    assert outcome.code == 2
    assert sentence in outcome.err


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["plan", "--devices=64"], 64),
        (["--devices=5", "plan"], 5),
        (["--devices", "7", "plan"], 7),
        (["plan"], 1),
        (["train", "--workdir=plan"], None),
        (["train", "--workdir", "plan"], None),
        (["--workdir", "plan"], None),
    ],
)
def test_devices_are_made_before_jax_starts(arguments, count, monkeypatch):
    """Those of `plan` only, whatever else has that name."""
    prepared = []
    monkeypatch.setattr(environment, "prepare", lambda *, plan_devices: prepared.append(plan_devices))
    monkeypatch.setattr(environment, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(main, "run", lambda line, *, started: sys.exit(0))
    monkeypatch.setattr(start.streams, "prepare", lambda: None)
    monkeypatch.setattr("sys.argv", ["launch.py", *arguments])
    with pytest.raises(SystemExit):
        start._run("jaxgen", 0.0)
    assert prepared == [count]


@pytest.mark.xdist_group("test_frozen_models")  # where the same program is compiled
def test_what_is_frozen_is_told_apart():
    outcome = launch(
        "plan", "--config=configs/consistency.py:tiny", "--config.frozen.teacher=configs/sit.py:tiny",
        "--config.consistency.start_from_teacher=False", "--devices=4", "--mesh=fsdp=4,min_shard_elements=1",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("frozen: the teacher takes ")]
    share = float(line.partition("(")[2].partition("%")[0])
    assert 25.0 <= share < 30.0
    absent = launch("plan", "--config=configs/consistency.py:tiny", "--config.frozen.teacher=runs/none", "--devices=1")
    assert absent.code == 2
    assert "runs/none" in absent.err

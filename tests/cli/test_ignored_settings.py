"""Settings of a run that a command does not read are refused, not ignored."""

import pytest

from jaxgen.cli.command_line import parse
from jaxgen.cli.commands import COMMANDS
from jaxgen.runs import config_files

ALL = set(config_files.shared_settings())


def below(*prefixes: str) -> set[str]:
    return {name for name in ALL if name.startswith(prefixes)}


DRAWING = below("ema.", "parallel.", "sample.") | {
    "method",
    "data.batch_size",  # which must divide over the devices
    "train.microbatches",
    "train.compute_dtype",
}
NOT_OF_PLANS = below(
    "evaluate.",
    "sample.",
    "train.checkpoint_",
    "train.init_",
    "train.keep_",
    "train.log_",
    "train.sample_",
    "train.snapshot_",
) | {"seed", "log.tensorboard", "log.wandb", "train.on_write_error"}

HEEDED = {
    **dict.fromkeys(("train", "import", "ema"), ALL),
    **dict.fromkeys(("sample", "interpolate", "mix", "directions", "project", "decompress"), DRAWING),
    **dict.fromkeys(("traverse", "encode", "compress"), DRAWING | below("data.")),
    "evaluate": DRAWING | below("data.", "evaluate."),
    "checkpoints": below("train.keep_"),
    "plan": ALL - NOT_OF_PLANS,
}


def takes(command: str, setting: str) -> bool:
    try:
        parse([command, f"--config.{setting}=3"])
    except ValueError as error:
        return not str(error).startswith(f"--config.{setting}=3 has no effect on {command}: leave it out")
    return True


@pytest.mark.parametrize("command", [name for name, its in COMMANDS.items() if its.takes_settings])
def test_a_command_takes_the_settings_that_it_depends_on_and_no_others(command):
    assert {name for name in ALL if takes(command, name)} == HEEDED[command]
    assert takes(command, "sampler.guidance_scale") == (command != "checkpoints")
    assert takes(command, "optimizer.generator.b1") == ("optimizer.b1" in HEEDED[command])

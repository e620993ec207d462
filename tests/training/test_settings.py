import pytest

from configs import common
from jaxgen.training.settings import TrainSettings, train_settings


def settings(**changes):
    config = common.base()
    for name, value in changes.items():
        section, _, key = name.partition("_")
        with config.ignore_type():
            config[section][key] = value
    return train_settings(config)


def test_the_section_becomes_settings():
    assert settings(train_num_steps=7, train_microbatches=4) == TrainSettings(
        7, microbatches=4, sample_every_steps=2_000, checkpoint_every_steps=2_000
    )


@pytest.mark.parametrize("name", [n for n, t in TrainSettings.__annotations__.items() if t is int])
def test_durations_and_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=rf"train\.{name} is 0, but must be at least 1"):
        settings(**{f"train_{name}": 0})


def test_snapshots_are_of_power_averages():
    with pytest.raises(ValueError, match=r"train\.snapshot_every_steps is set, but only .* of ema\.kind=power"):
        settings(train_snapshot_every_steps=5)
    with pytest.raises(ValueError, match=r"train\.snapshot_every_steps is 0, but must be at least 1"):
        settings(train_snapshot_every_steps=0, ema_kind="power")
    assert settings(train_snapshot_every_steps=5, ema_kind="power").snapshot_every_steps == 5


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_for_drawing_that_is_none_is_refused(share):
    with pytest.raises(
        ValueError, match=rf"train\.sample_share is {share}, but must be above 0 and at most 1, or None"
    ):
        settings(train_sample_share=share)


@pytest.mark.parametrize("share", [0.01, 1.0, None])
def test_a_share_for_drawing_may_be_without_a_limit(share):
    assert settings(train_sample_share=share).sample_share == share


@pytest.mark.parametrize("size", [0, -4, 6])
def test_a_batch_that_cannot_be_sliced_is_refused(size):
    with pytest.raises(ValueError, match=rf"data\.batch_size is {size}, but must be a positive multiple of .* 4"):
        settings(data_batch_size=size, train_microbatches=4)


def test_a_wrong_type_is_refused():
    with pytest.raises(ValueError, match=r"train\.compute_dtype is 'float16', but must be .*'bfloat16'"):
        settings(train_compute_dtype="float16")
    with pytest.raises(ValueError, match=r"train\.num_steps is 2\.5, but must be of type int"):
        settings(train_num_steps=2.5)

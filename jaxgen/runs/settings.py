"""The settings of a run: its config, read once into typed records."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxgen.core import shared_settings
from jaxgen.core.config import Section, call
from jaxgen.data.faults import NEEDS as FAULT_NEEDS
from jaxgen.data.faults import FaultSettings
from jaxgen.evaluation.report import EvaluationSettings, evaluation_settings
from jaxgen.parallel.sampling import SampleSettings, sample_settings
from jaxgen.parallel.settings import NEEDS as PARALLEL_NEEDS
from jaxgen.parallel.settings import ParallelSettings
from jaxgen.runs.config_files import Config, read_only
from jaxgen.training.durability.health import HealthSettings, health_settings
from jaxgen.training.logging import LogSettings, log_settings
from jaxgen.training.settings import TrainSettings, train_settings


class DataSettings(NamedTuple):
    """The config's section `data`.

    Attributes:
      name: of the dataset.
      batch_size: examples behind one gradient.
      flip: whether half of the training images are mirrored.
      faults: what to do about examples that cannot be read.
      source: what else is given: options of the dataset's source, which checks them.
    """

    name: str
    batch_size: int
    flip: bool
    faults: FaultSettings
    source: Mapping[str, Any]


class Settings(NamedTuple):
    """All settings of a run. Those that all methods share are read; methods read their own when they are built.

    Attributes:
      config: the whole config, which cannot be changed; paths in it are as given, elsewhere they are expanded.
      seed: of everything that is random.
      data: the section `data`.
      train: the section `train`.
      health: the section `health`.
      log: the section `log`.
      parallel: the section `parallel`.
      sample: the section `sample`.
      evaluate: the section `evaluate`; `num_samples` is 0 for no evaluation.
    """

    config: Section
    seed: int
    data: DataSettings
    train: TrainSettings
    health: HealthSettings
    log: LogSettings
    parallel: ParallelSettings
    sample: SampleSettings
    evaluate: EvaluationSettings


def parse(config: Config) -> Settings:
    """Reads a config.

    Raises:
      ValueError: names the first setting of the shared sections that is wrong.
    """
    config = read_only(config)
    shared_settings.check_shared(config)
    located = shared_settings.located(config)
    return Settings(
        config,
        config.seed,
        _data_settings(located.data),
        train_settings(located),
        health_settings(config),
        log_settings(config),
        call(ParallelSettings, config.parallel, where="parallel", needs=PARALLEL_NEEDS),
        sample_settings(config),
        evaluation_settings(located),
    )


def _data_settings(data: Section) -> DataSettings:
    faults = {name: data[name] for name in FaultSettings._fields if name in data}
    program = ("name", "batch_size", "flip", *FaultSettings._fields)
    source = {name: value for name, value in data.items() if name not in program and value is not None}
    return DataSettings(
        data.name, data.batch_size, data.flip, call(FaultSettings, faults, where="data", needs=FAULT_NEEDS), source
    )

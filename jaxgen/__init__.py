"""jaxgen: image generation in JAX, every family of models as pure functions behind one contract.

`config`, `train`, `open` and `evaluate` do what the commands do (docs/python.md). They are imported when they are first
used, so that `import jaxgen` takes no time and leaves JAX alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgen.runs.config_files import config
    from jaxgen.runs.evaluation import evaluate, evaluate_images
    from jaxgen.runs.opened import Run
    from jaxgen.runs.opened import open_run as open
    from jaxgen.runs.training import train

__version__ = "0.1.0"
__all__ = ["Run", "config", "evaluate", "evaluate_images", "open", "train"]

_FOUND_IN = {
    "Run": "opened.Run",
    "config": "config_files.config",
    "evaluate": "evaluation.evaluate",
    "evaluate_images": "evaluation.evaluate_images",
    "open": "opened.open_run",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _FOUND_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, function = _FOUND_IN[name].partition(".")
    return getattr(importlib.import_module(f"jaxgen.runs.{module}"), function)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Specs of data with classes."""

from collections.abc import Callable
from typing import Any

from jaxgen.core.conditioning import classes
from jaxgen.core.contract import GenerativeModel, ModelSpec


def data_spec(image_shape: tuple[int, int, int], num_classes: int = 0, **more: Any) -> ModelSpec:
    """Data of images with so many classes, or none."""
    return ModelSpec(image_shape, {"label": classes(num_classes)} if num_classes else {}, **more)


def finished(
    denoise: Callable, image_shape: tuple[int, int, int], num_classes: int = 0, **more: Any
) -> GenerativeModel:
    """A finished model that can denoise and nothing else, told the class, if there are any, or nothing."""
    conditioning = {"label": classes(num_classes, null=True)} if num_classes else {}
    functions: list[Any] = [lambda *args: None] * 4
    return GenerativeModel(ModelSpec(image_shape, conditioning, **more), *functions, denoise=denoise)

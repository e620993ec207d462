"""The training of the peers of `benchmarks/speed.py` in PyTorch, whatever their family is."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

DECAY = 0.999


class Peer:
    """A peer with an optimizer step and a way to draw samples.

    Attributes:
      case: the network, its arguments, shape and classes of the data, batch size.
      modules: all networks.
      called: the same, compiled in that mode.
      average: the moving average of the network that is sampled.
      drawing: what samples call, compiled in that mode.
    """

    def __init__(self, case: dict[str, Any], mode: str) -> None:
        last = mode == "channels_last" or (mode == "compile" and torch.cuda.is_available())
        self.case, self.layout = case, torch.channels_last if last else torch.contiguous_format
        self.modules = [module.to(memory_format=self.layout) for module in self.make()]
        self.average = copy.deepcopy(self.modules[0]).requires_grad_(False)
        self.parameters = [sum(p.numel() for p in module.parameters()) for module in self.modules]
        rates = {"lr": 2e-4, "betas": tuple(case.get("betas", (0.9, 0.999)))}
        rates |= {"fused": True} if torch.get_default_device().type == "cuda" else {}
        self.optimizers = [torch.optim.Adam(module.parameters(), **rates) for module in self.modules]
        compiled = torch.compile if mode == "compile" else lambda function: function
        self.called = [compiled(module) for module in self.modules]
        self.drawing = compiled(self.drawn())
        self.steps = 0

    def make(self) -> list[nn.Module]:
        """Returns the networks, the one to sample first."""
        raise NotImplementedError

    def drawn(self) -> Callable[..., Tensor]:
        """Returns the part of the average that samples call."""
        return self.average

    def turns(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields the networks to update in a step, by number, each with the function that returns its loss."""
        raise NotImplementedError

    def sample(self) -> Tensor:
        """Draws a batch of images."""
        raise NotImplementedError

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context in which networks compute in the type of the case."""
        if "dtype" not in self.case:
            return contextlib.nullcontext()
        return torch.autocast(torch.get_default_device().type, getattr(torch, self.case["dtype"]))

    def noise(self) -> Tensor:
        """Returns normal noise of the shape of a batch of images."""
        side, _, colors = self.case["shape"]
        return torch.randn(self.case["batch"], colors, side, side).to(memory_format=self.layout)

    def labels(self) -> Tensor:
        """Returns random labels."""
        return torch.randint(0, self.case["classes"], (self.case["batch"],))

    def step(self) -> None:
        """Does one step of training on random images: no network but the one whose turn it is has gradients."""
        for number, loss in self.turns():
            for i, module in enumerate(self.modules):
                module.requires_grad_(i == number)
            self.optimizers[number].zero_grad()
            with self.precision():
                value = loss()
            value.backward()
            if "clip_norm" in self.case:
                nn.utils.clip_grad_norm_(self.modules[number].parameters(), self.case["clip_norm"])
            self.optimizers[number].step()
        means, values = list(self.average.parameters()), list(self.modules[0].parameters())
        with torch.no_grad():
            torch._foreach_lerp_(means, values, 1 - DECAY)
        self.steps += 1

"""The training of EDM (Karras et al. 2022) by the network of its official PyTorch code.

The checkout of that code is the directory edm in the one that the variable OFFICIAL_CODE names.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch_peer import Peer

SIGMA_DATA = 0.5


class Preconditioned(nn.Module):
    """The estimate of the clean image, by the network in the type of the case (section 5, table 1)."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        """Maps noisy images, noise levels and one-hot labels to images."""
        level = sigma[:, None, None, None]
        total = (level**2 + SIGMA_DATA**2).sqrt()
        out = self.network((x / total).to(self.dtype), sigma.log() / 4, label).float()
        return x * (SIGMA_DATA / total) ** 2 + out * level * SIGMA_DATA / total


class EDM(Peer):
    """The U-Net DDPM++ in EDM's preconditioning."""

    def make(self) -> list[nn.Module]:
        """Returns the network."""
        sys.path.insert(0, os.path.join(os.environ["OFFICIAL_CODE"], "edm"))
        from training.networks import SongUNet

        (side, _, colors), given = self.case["shape"], self.case["arguments"]
        network = SongUNet(
            side,
            colors,
            colors,
            label_dim=self.case["classes"],
            model_channels=given["channels"],
            channel_mult=list(given["multipliers"]),
            num_blocks=given["blocks"],
            dropout=given["dropout"],
        )
        return [Preconditioned(network, getattr(torch, self.case.get("dtype", "float32")))]

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Returns no context: the network casts its weights to the type of its input."""
        return contextlib.nullcontext()

    def turns(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields the weighted squared error at log-normal noise levels."""
        yield 0, self._error

    def _error(self) -> Tensor:
        x = self.noise()
        sigma = (1.2 * torch.randn(len(x)) - 1.2).exp()
        level = sigma[:, None, None, None]
        weight = (level**2 + SIGMA_DATA**2) / (level * SIGMA_DATA) ** 2
        return (weight * (self.called[0](x + level * self.noise(), sigma, self._one_hot()) - x) ** 2).mean()

    def _one_hot(self) -> Tensor:
        return nn.functional.one_hot(self.labels(), self.case["classes"]).float()

"""A convolutional VAE, written plainly in PyTorch, with its training and sampling."""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch_peer import Peer


class VAENetwork(nn.Module):
    """A convolutional VAE (Kingma and Welling 2014) with a Gaussian likelihood, whose deviation is learned."""

    def __init__(self, shape: tuple[int, int, int], latent: int, width: int, hidden: int, halvings: int) -> None:
        super().__init__()
        side, _, colors = shape
        base, channels = side >> halvings, [width << i for i in range(halvings)]
        size = base * base * channels[-1]
        layers: list[nn.Module] = []
        for inputs, outputs in zip([colors, *channels], channels, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.SiLU()]
        head = [nn.Flatten(), nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, 2 * latent)]
        self.encoder = nn.Sequential(*layers, *head)
        layers = [nn.Linear(latent, hidden), nn.SiLU(), nn.Linear(hidden, size), nn.SiLU()]
        layers.append(nn.Unflatten(1, (channels[-1], base, base)))
        channels.reverse()
        for inputs, outputs in itertools.pairwise(channels):
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.SiLU()]
        self.decoder = nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], colors, 4, 2, 1))
        self.log_sigma = nn.Parameter(torch.tensor(math.log(0.2)))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the negative bound on the likelihood, a mean over the batch."""
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        errors = (x - self.decoder(z)) * torch.exp(-self.log_sigma)
        fit = (0.5 * errors**2 + self.log_sigma).flatten(1).sum(1)
        divergence = 0.5 * (mean**2 + logvar.exp() - logvar - 1).sum(1)
        return (fit + divergence).mean()


class VAE(Peer):
    """The convolutional VAE."""

    def make(self) -> list[nn.Module]:
        """Returns the encoder and decoder as one."""
        return [VAENetwork(tuple(self.case["shape"]), **self.case["arguments"])]

    def drawn(self) -> nn.Module:
        """Returns the decoder."""
        return self.average.decoder

    def turns(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields the negative bound."""
        yield 0, lambda: self.called[0](self.noise())

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Decodes latents of the prior."""
        return self.drawing(torch.randn(self.case["batch"], self.case["arguments"]["latent"]))

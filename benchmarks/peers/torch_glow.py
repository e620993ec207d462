"""Glow (Kingma and Dhariwal 2018), written plainly in PyTorch, with its training and sampling."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_peer import Peer

LOG_SCALE_FACTOR = 3.0


class ActNorm(nn.Module):
    """A shift and a scale of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the normalized map, and the log-determinant."""
        log_scale = LOG_SCALE_FACTOR * self.log_scale
        return torch.exp(log_scale) * (x + self.shift), x[0, 0].numel() * log_scale.sum()

    def inverse(self, y: Tensor) -> Tensor:
        """Undoes it."""
        return y * torch.exp(-LOG_SCALE_FACTOR * self.log_scale) - self.shift


def edge_padded(x: Tensor) -> Tensor:
    """Pads with zeros, and adds a channel that is 1 there and 0 inside."""
    outside = functional.pad(torch.zeros_like(x[:, :1]), (1, 1, 1, 1), value=1.0)
    return torch.cat([functional.pad(x, (1, 1, 1, 1)), outside], dim=1)


class ZeroConv(nn.Module):
    """A convolution that starts at zero, with a learned scale of each output (section 3.3)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs + 1, outputs, 3)
        self.log_scale = nn.Parameter(torch.zeros(outputs, 1, 1))
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the convolution."""
        return self.conv(edge_padded(x)) * torch.exp(LOG_SCALE_FACTOR * self.log_scale)


class Net(nn.Module):
    """The network of a coupling."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(inputs + 1, width, 3, bias=False)
        self.conv_1 = nn.Conv2d(width, width, 1, bias=False)
        self.norm_0, self.norm_1, self.out = ActNorm(width), ActNorm(width), ZeroConv(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the network."""
        h = functional.relu(self.norm_0(self.conv_0(edge_padded(x)))[0])
        return self.out(functional.relu(self.norm_1(self.conv_1(h))[0]))


class Step(nn.Module):
    """Activation normalization, an invertible 1x1 convolution, an affine coupling (figure 2a)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = ActNorm(channels)
        self.matrix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0].contiguous())
        self.net = Net(channels // 2, width, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the transformed map, and the log-determinants."""
        x, log_det = self.norm(x)
        x = functional.conv2d(x, self.matrix[:, :, None, None])
        log_det = log_det + x[0, 0].numel() * torch.linalg.slogdet(self.matrix)[1]
        first, second = x.chunk(2, dim=1)
        h, shift = self.net(first).chunk(2, dim=1)
        log_scale = functional.logsigmoid(h + 2)
        second = (second + shift) * torch.exp(log_scale)
        return torch.cat([first, second], dim=1), log_det + log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """Undoes it."""
        first, second = y.chunk(2, dim=1)
        h, shift = self.net(first).chunk(2, dim=1)
        second = second * torch.exp(-functional.logsigmoid(h + 2)) - shift
        x = torch.cat([first, second], dim=1)
        return self.norm.inverse(functional.conv2d(x, torch.linalg.inv(self.matrix)[:, :, None, None]))


class Flow(nn.Module):
    """Levels of steps, after each of which, but the last one, half of the channels are latents."""

    def __init__(self, colors: int, levels: int, steps: int, width: int) -> None:
        super().__init__()
        self.levels, self.priors = nn.ModuleList(), nn.ModuleList()
        for i in range(levels):
            channels = colors * 2 ** (i + 2)
            self.levels.append(nn.ModuleList(Step(channels, width) for _ in range(steps)))
            kept = channels // 2
            self.priors.append(ZeroConv(kept, 2 * kept) if i < levels - 1 else ZeroConv(2 * channels, 2 * channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the negative log-density in bits per dimension, a mean over the batch."""
        total, dimensions = torch.zeros(len(x)), x[0].numel()
        for i, level in enumerate(self.levels):
            x = functional.pixel_unshuffle(x, 2)
            for step in level:
                x, log_det = step(x)
                total = total + log_det
            z, given = x, torch.zeros_like(x).repeat(1, 2, 1, 1)
            if i < len(self.levels) - 1:
                x, z = x.chunk(2, dim=1)
                given = x
            mean, log_sigma = self.priors[i](given).chunk(2, dim=1)
            eps = (z - mean) * torch.exp(-log_sigma)
            total = total - (0.5 * eps**2 + 0.5 * math.log(2 * math.pi) + log_sigma).flatten(1).sum(1)
        return -total.mean() / (dimensions * math.log(2))

    def inverse(self, latents: list[Tensor]) -> Tensor:
        """Returns the images of the latents of all levels."""
        x = None
        for i in reversed(range(len(self.levels))):
            given = latents[i].repeat(1, 2, 1, 1) * 0 if x is None else x
            mean, log_sigma = self.priors[i](given).chunk(2, dim=1)
            z = latents[i] * torch.exp(log_sigma) + mean
            x = z if x is None else torch.cat([x, z], dim=1)
            for step in reversed(self.levels[i]):
                x = step.inverse(x)
            x = functional.pixel_shuffle(x, 2)
        return x


class Glow(Peer):
    """Glow, trained on images with uniform noise."""

    def make(self) -> list[nn.Module]:
        """Returns the network."""
        return [Flow(self.case["shape"][2], **self.case["arguments"])]

    def drawn(self) -> Callable[..., Tensor]:
        """Returns the inverse."""
        return self.average.inverse

    def turns(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields the negative log-density."""
        yield 0, self._loss

    def _loss(self) -> Tensor:
        x = self.noise()
        return self.called[0](x + torch.rand_like(x) / 256)

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Maps latents to images."""
        side, _, colors = self.case["shape"]
        count, last = self.case["batch"], self.case["arguments"]["levels"] - 1
        shapes = [(colors * 2 ** (i + 1 + (i == last)), side >> (i + 1)) for i in range(last + 1)]
        latents = [torch.randn(count, c, s, s).to(memory_format=self.layout) for c, s in shapes]
        return self.drawing(latents)

"""StyleGAN2 (Karras et al. 2020), written plainly in PyTorch, with its training and sampling."""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_gan import Adversarial


def leaky(x: Tensor) -> Tensor:
    """Returns the leaky ReLU, times sqrt(2)."""
    return functional.leaky_relu(x, 0.2) * math.sqrt(2)


class Filter(nn.Module):
    """The filter (1, 3, 3, 1) of each channel: convolved with a stride, or between zeros that double the map."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", taps[:, None] * taps)

    def forward(self, x: Tensor, padding: int, stride: int = 1) -> Tensor:
        """Filters the map."""
        return functional.conv2d(x, self._weight(x), stride=stride, padding=padding, groups=x.shape[1])

    def doubled(self, x: Tensor) -> Tensor:
        """Doubles height and width."""
        return functional.conv_transpose2d(x, 4 * self._weight(x), stride=2, padding=1, groups=x.shape[1])

    def _weight(self, x: Tensor) -> Tensor:
        return self.taps.expand(x.shape[1], 1, 4, 4)


class Dense(nn.Module):
    """A linear layer with an equalized learning rate."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.multiplier, self.scale = multiplier, multiplier / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return functional.linear(x, self.weight * self.scale, self.bias * self.multiplier)


class Conv(nn.Module):
    """A convolution with an equalized learning rate, which may filter and halve the map."""

    def __init__(self, inputs: int, outputs: int, size: int, *, down: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.size, self.down = 1 / math.sqrt(inputs * size**2), size, down
        self.filter = Filter()

    def forward(self, x: Tensor) -> Tensor:
        """Applies the convolution."""
        weight = self.weight * self.scale
        if not self.down:
            return functional.conv2d(x, weight, self.bias, padding=self.size // 2)
        if self.size == 1:
            return functional.conv2d(self.filter(x, 1, stride=2), weight, self.bias)
        return functional.conv2d(self.filter(x, 2), weight, self.bias, stride=2)


class StyledConv(nn.Module):
    """A modulated and demodulated convolution with noise (figure 2d), which may double the map."""

    def __init__(self, inputs: int, outputs: int, style: int, *, up: bool) -> None:
        super().__init__()
        self.affine = Dense(style, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias, self.noise_strength = nn.Parameter(torch.zeros(outputs)), nn.Parameter(torch.zeros(()))
        self.up, self.filter = up, Filter()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Applies the convolution to a map whose channels the style scales."""
        style = self.affine(w)
        x = x * style[:, :, None, None]
        if self.up:
            h = functional.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            h = 4 * self.filter(h, 1)
        else:
            h = functional.conv2d(x, self.weight, padding=1)
        demodulation = torch.rsqrt(style.square() @ self.weight.square().sum((2, 3)).T + 1e-8)
        h = h * demodulation[:, :, None, None]
        h = h + self.noise_strength * torch.randn(len(h), 1, *h.shape[2:])
        return leaky(h + self.bias[:, None, None])


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to colors."""

    def __init__(self, inputs: int, colors: int, style: int) -> None:
        super().__init__()
        self.affine = Dense(style, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(colors, inputs, 1, 1))
        self.bias, self.scale = nn.Parameter(torch.zeros(colors)), 1 / math.sqrt(inputs)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Maps features to colors."""
        style = self.affine(w) * self.scale
        return functional.conv2d(x * style[:, :, None, None], self.weight, self.bias)


class Generator(nn.Module):
    """A mapping network, and a synthesis network with skip connections (figure 7b)."""

    def __init__(self, colors: int, latent: int, mapping: int, channels: dict[int, int]) -> None:
        super().__init__()
        self.mapping = nn.ModuleList(Dense(latent, latent, multiplier=0.01) for _ in range(mapping))
        sides = sorted(channels)
        self.const = nn.Parameter(torch.randn(1, channels[4], 4, 4))
        self.convs, self.colors = nn.ModuleList(), nn.ModuleList()
        for i, side in enumerate(sides):
            if i:
                self.convs.append(StyledConv(channels[sides[i - 1]], channels[side], latent, up=True))
            self.convs.append(StyledConv(channels[side], channels[side], latent, up=False))
            self.colors.append(ToRGB(channels[side], colors, latent))
        self.filter = Filter()
        self.register_buffer("average", torch.zeros(latent))

    def forward(self, z: Tensor) -> Tensor:
        """Maps latents to images."""
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = leaky(layer(w))
        if self.training:
            self.average.lerp_(w.detach().mean(0), 0.005)
        x = self.convs[0](self.const.expand(len(z), -1, -1, -1), w)
        image = self.colors[0](x, w)
        for i in range(1, len(self.colors)):
            x = self.convs[2 * i](self.convs[2 * i - 1](x, w), w)
            image = self.filter.doubled(image) + self.colors[i](x, w)
        return image


class Block(nn.Module):
    """A residual block of the discriminator (figure 7c), which halves height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_0, self.conv_1 = Conv(inputs, inputs, 3), Conv(inputs, outputs, 3, down=True)
        self.skip = Conv(inputs, outputs, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        return math.sqrt(0.5) * (self.skip(x) + leaky(self.conv_1(leaky(self.conv_0(x)))))


class Discriminator(nn.Module):
    """Residual blocks, and the standard deviation of a batch among the last features."""

    def __init__(self, colors: int, channels: dict[int, int]) -> None:
        super().__init__()
        sides = sorted(channels, reverse=True)
        self.first = Conv(colors, channels[sides[0]], 1)
        self.blocks = nn.Sequential(
            *(Block(channels[a], channels[b]) for a, b in itertools.pairwise(sides)),
        )
        last = channels[4]
        self.conv, self.dense, self.out = Conv(last + 1, last, 3), Dense(16 * last, last), Dense(last, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images to logits."""
        x = self.blocks(leaky(self.first(x)))
        deviation = torch.sqrt(x.var(0, correction=0) + 1e-8).mean()
        x = torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], dim=1)
        return self.out(leaky(self.dense(leaky(self.conv(x)).flatten(1))))


class StyleGAN2(Adversarial):
    """StyleGAN2, one turn each, and one more of the discriminator on R1 in every so many steps."""

    def make(self) -> list[nn.Module]:
        """Returns generator and discriminator."""
        side, _, colors = self.case["shape"]
        given = self.case["arguments"]
        sides = [4 << i for i in range((side // 4).bit_length())]
        channels = {s: min(given["channel_base"] // s, given["channel_max"]) for s in sides}
        return [Generator(colors, given["latent"], given["mapping"], channels), Discriminator(colors, channels)]

    def latents(self) -> Tensor:
        """Returns a batch of latents."""
        return torch.randn(self.case["batch"], self.case["arguments"]["latent"])

    def turns(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields the discriminator's loss, lazily its penalty, then the generator's."""
        of_generator, of_discriminator = self.logistic_losses()
        yield 1, of_discriminator
        if self.steps % self.case["arguments"]["r1_every"] == 0:
            yield 1, self._penalty
        yield 0, of_generator

    def _penalty(self) -> Tensor:
        """R1, by the network that is not compiled: torch.compile has no second derivatives."""
        x = 1.0 * self.noise().requires_grad_()  # no leaf of the graph, or operations could not be counted
        (gradient,) = torch.autograd.grad(self.modules[1](x).sum(), x, create_graph=True)
        return 0.005 * self.case["arguments"]["r1_every"] * gradient.square().sum((1, 2, 3)).mean()

"""PixelCNN++ (Salimans et al. 2017), written plainly in PyTorch, with its training."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch_peer import Peer

# Rows and columns of a kernel, and the zeros left, right, above and below it; negative ones cut the map.
VERTICAL = ((2, 3), (1, 1, 1, 0))
HORIZONTAL = ((2, 2), (1, 0, 1, 0))
POINT = ((1, 1), (0, 0, 0, 0))
Activations = list[list[Tensor]]


def concat_elu(x: Tensor) -> Tensor:
    """Returns ELUs of the features and of their negatives."""
    return functional.elu(torch.cat([x, -x], dim=1))


class Conv(nn.Module):
    """A causal convolution with weight normalization."""

    def __init__(self, inputs: int, outputs: int, geometry: tuple, stride: int = 1) -> None:
        super().__init__()
        size, self.padding = geometry
        self.conv = weight_norm(nn.Conv2d(inputs, outputs, size, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the convolution."""
        return self.conv(functional.pad(x, self.padding))


class Upsample(nn.Module):
    """A transposed convolution with weight normalization, cut by one column if it has three."""

    def __init__(self, filters: int, columns: int) -> None:
        super().__init__()
        self.conv = weight_norm(nn.ConvTranspose2d(filters, filters, (2, columns), stride=2), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Doubles height and width."""
        return self.conv(x)[:, :, :, : 2 * x.shape[3]]


class Block(nn.Module):
    """Two convolutions, a short-cut after the first, a gate after the second."""

    def __init__(self, filters: int, geometry: tuple, short_cut: int, dropout: float) -> None:
        super().__init__()
        self.conv_in = Conv(2 * filters, filters, geometry)
        self.short_cut = Conv(2 * short_cut, filters, POINT) if short_cut else None
        self.dropout = nn.Dropout(dropout)
        self.conv_out = Conv(2 * filters, 2 * filters, geometry)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Applies the block."""
        h = self.conv_in(concat_elu(x))
        if self.short_cut is not None:
            h = h + self.short_cut(concat_elu(other))
        values, gates = self.conv_out(self.dropout(concat_elu(h))).chunk(2, dim=1)
        return x + values * gates.sigmoid()


class Stream(nn.Module):
    """The layers of one of the two streams, by resolution from the finest, and by block."""

    def __init__(
        self, filters: int, geometry: tuple, columns: int, given: dict[str, float], short_cuts: tuple[int, int]
    ) -> None:
        super().__init__()
        blocks, last = int(given["blocks"]), int(given["resolutions"]) - 1

        def stack(count: int, short_cut: int) -> nn.ModuleList:
            return nn.ModuleList(Block(filters, geometry, short_cut, given["dropout"]) for _ in range(count))

        self.down = nn.ModuleList(stack(blocks, short_cuts[0]) for _ in range(last + 1))
        self.up = nn.ModuleList(stack(blocks + (s < last), short_cuts[1]) for s in range(last + 1))
        self.halving = nn.ModuleList(Conv(filters, filters, geometry, stride=2) for _ in range(last))
        self.doubling = nn.ModuleList(Upsample(filters, columns) for _ in range(last))


class PixelCNNpp(nn.Module):
    """A U of two streams: of the rows above, and of what is left of the pixel as well."""

    def __init__(self, colors: int, filters: int, blocks: int, resolutions: int, dropout: float, mixtures: int) -> None:
        super().__init__()
        given = {"blocks": blocks, "resolutions": resolutions, "dropout": dropout}
        self.last = resolutions - 1
        self.vertical = Stream(filters, VERTICAL, 3, given, (0, filters))
        self.horizontal = Stream(filters, HORIZONTAL, 2, given, (filters, 2 * filters))
        self.above = Conv(colors + 1, filters, ((2, 3), (1, 1, 2, -1)))
        self.row_above = Conv(colors + 1, filters, ((1, 3), (1, 1, 1, -1)))
        self.left = Conv(colors + 1, filters, ((2, 1), (1, -1, 1, 0)))
        outputs = mixtures * (1 + 2 * colors + colors * (colors - 1) // 2)
        self.out = Conv(filters, outputs, POINT)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images to the parameters of the mixture of each pixel."""
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        down, up = self._rows(functional.pad(self.above(x)[:, :, 1:], (0, 0, 1, 0)))
        above = functional.pad(self.row_above(x)[:, :, 1:], (0, 0, 1, 0))
        h = above + functional.pad(self.left(x)[:, :, :, 1:], (1, 0))
        stream, seen = self.horizontal, []
        for s in range(self.last + 1):
            seen.append(h)
            for block, u in zip(stream.down[s], down[s], strict=True):
                h = block(h, u)
                seen.append(h)
            h = stream.halving[s](h) if s < self.last else seen.pop()
        for s in reversed(range(self.last + 1)):
            for block, u in zip(stream.up[s], up[s], strict=True):
                h = block(h, torch.cat([u, seen.pop()], dim=1))
            h = stream.doubling[s - 1](h) if s else h
        return self.out(functional.elu(h))

    def _rows(self, u: Tensor) -> tuple[Activations, Activations]:
        """Returns the activations of the vertical stream, on the way down and on the way up."""
        stream, seen = self.vertical, []
        down: Activations = [[] for _ in stream.down]
        up: Activations = [[] for _ in stream.up]
        for s in range(self.last + 1):
            seen.append(u)
            for block in stream.down[s]:
                u = block(u)
                down[s].append(u)
                seen.append(u)
            u = stream.halving[s](u) if s < self.last else seen.pop()
        for s in reversed(range(self.last + 1)):
            for block in stream.up[s]:
                u = block(u, seen.pop())
                up[s].append(u)
            u = stream.doubling[s - 1](u) if s else u
        return down, up


def mixture_loss(x: Tensor, params: Tensor) -> Tensor:
    """Returns the negative log-likelihood, in nats a dimension, of the mixture of logistics (section 2.1).

    Args:
      x: images [b, 3, h, w] of 256 levels in [-1, 1].
      params: [b, 10 * mixtures, h, w]: logits of the components; of each color a mean, a log-scale and a coefficient.
    """
    b, _, h, w = x.shape
    logits, *rows = params.reshape(b, 10, -1, h, w).unbind(1)
    means, log_scales, coefficients = (torch.stack(rows[i::3], dim=1) for i in range(3))
    log_scales, (a, c, d) = log_scales.clamp(min=-7), coefficients.tanh().unbind(1)
    red, green, _ = x[:, :, None].unbind(1)
    means = torch.stack([means[:, 0], means[:, 1] + a * red, means[:, 2] + c * red + d * green], dim=1)
    centered, inverse = x[:, :, None] - means, torch.exp(-log_scales)
    above, below = inverse * (centered + 1 / 255), inverse * (centered - 1 / 255)
    inside = torch.log((above.sigmoid() - below.sigmoid()).clamp(min=1e-12))
    values = x[:, :, None]
    ends = torch.where(values > 0.999, -functional.softplus(below), inside)
    log_probs = torch.where(values < -0.999, functional.logsigmoid(above), ends).sum(1)
    return -(log_probs + logits.log_softmax(1)).logsumexp(1).mean() / 3


class PixelCNN(Peer):
    """PixelCNN++, trained on random levels. Its samples take as many passes as there are pixels, and are not timed."""

    def make(self) -> list[nn.Module]:
        """Returns the network."""
        return [PixelCNNpp(self.case["shape"][2], **self.case["arguments"])]

    def turns(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields the negative log-likelihood."""
        yield 0, self._loss

    def _loss(self) -> Tensor:
        x = (127.5 + 50 * self.noise()).round().clamp(0, 255) / 127.5 - 1
        return mixture_loss(x, self.called[0](x)) / math.log(2)

"""The U-Net of DDPM and the transformer DiT, written plainly in PyTorch, with their training and sampling."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_peer import Peer


def sinusoids(t: Tensor, dim: int) -> Tensor:
    """Returns the sinusoidal embedding of timesteps, [b, dim]."""
    freqs = torch.exp(-math.log(10_000.0) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angles = t.float()[:, None] * freqs
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PixelAttention(nn.Module):
    """Residual self-attention over pixels, with one head."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Returns features of the same shape."""
        b, c, h, w = x.shape
        tokens = self.norm(x).reshape(b, c, h * w).transpose(1, 2)
        heads = [layer(tokens)[:, None] for layer in (self.query, self.key, self.value)]
        mixed = self.out(functional.scaled_dot_product_attention(*heads)[:, 0])
        return x + mixed.transpose(1, 2).reshape(b, c, h, w)


class ResidualBlock(nn.Module):
    """Normalization, swish and convolution, twice, around a shortcut; then attention, if asked for."""

    def __init__(
        self, inputs: int, channels: int, embedding: int, groups: int, dropout: float, attention: bool
    ) -> None:
        super().__init__()
        self.norm_0, self.norm_1 = (nn.GroupNorm(groups, c, eps=1e-6) for c in (inputs, channels))
        self.conv_0 = nn.Conv2d(inputs, channels, 3, padding=1)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.emb = nn.Linear(embedding, channels)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if inputs == channels else nn.Conv2d(inputs, channels, 1)
        self.attention = PixelAttention(channels, groups) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Maps features to `channels` features."""
        h = self.conv_0(functional.silu(self.norm_0(x))) + self.emb(emb)[:, :, None, None]
        h = self.conv_1(self.dropout(functional.silu(self.norm_1(h))))
        return self.attention(h + self.shortcut(x))


class UNet(nn.Module):
    """The class-conditional U-Net of DDPM (Ho et al. 2020, appendix B)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        base: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        dropout: float,
        groups: int,
    ) -> None:
        super().__init__()
        side, _, colors = shape
        self.base, self.levels, self.blocks = base, len(multipliers), blocks
        self.time = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
        self.label = nn.Embedding(classes + 1, 4 * base)

        def block(inputs: int, channels: int, attends: bool) -> ResidualBlock:
            return ResidualBlock(inputs, channels, 4 * base, groups, dropout, attends)

        self.conv_in = nn.Conv2d(colors, base, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.downsample, self.upsample = nn.ModuleList(), nn.ModuleList()
        width, skips = base, [base]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(block(width, base * multiplier, side >> level in attention))
                width = base * multiplier
                skips.append(width)
            if level < self.levels - 1:
                self.downsample.append(nn.Conv2d(width, width, 3, stride=2))
                skips.append(width)
        self.mid = nn.ModuleList([block(width, width, True), block(width, width, False)])
        for level in reversed(range(self.levels)):
            for _ in range(blocks + 1):
                channels = base * multipliers[level]
                self.up.append(block(width + skips.pop(), channels, side >> level in attention))
                width = channels
            if level:
                self.upsample.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm_out = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, colors, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Maps noisy images, timesteps and labels to estimates of the noise."""
        emb = functional.silu(self.time(sinusoids(t, self.base)) + self.label(label))
        h = self.conv_in(x)
        skips, down, up = [h], iter(self.down), iter(self.up)
        for level in range(self.levels):
            for _ in range(self.blocks):
                h = next(down)(h, emb)
                skips.append(h)
            if level < self.levels - 1:
                h = self.downsample[level](functional.pad(h, (0, 1, 0, 1)))
                skips.append(h)
        for block in self.mid:
            h = block(h, emb)
        for level in range(self.levels):
            for _ in range(self.blocks + 1):
                h = next(up)(torch.cat([h, skips.pop()], dim=1), emb)
            if level < self.levels - 1:
                h = self.upsample[level](functional.interpolate(h, scale_factor=2, mode="nearest"))
        return self.conv_out(functional.silu(self.norm_out(h)))


class TransformerBlock(nn.Module):
    """A block of DiT: attention and a perceptron, both modulated (Peebles and Xie 2023, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Maps tokens to tokens."""
        b, n, d = x.shape
        shift_0, scale_0, gate_0, shift_1, scale_1, gate_1 = self.modulation(emb)[:, None].chunk(6, dim=2)
        h = functional.layer_norm(x, (d,), eps=1e-6) * (1 + scale_0) + shift_0
        qkv = self.qkv(h).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(b, n, d)
        x = x + gate_0 * self.out(mixed)
        h = functional.layer_norm(x, (d,), eps=1e-6) * (1 + scale_1) + shift_1
        return x + gate_1 * self.mlp(h)


class DiT(nn.Module):
    """The diffusion transformer (Peebles and Xie 2023); its position table is zero here, which costs the same."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        side, _, colors = shape
        self.patch, self.grid = patch, side // patch
        self.embed = nn.Conv2d(colors, width, patch, stride=patch)
        self.register_buffer("positions", torch.zeros(1, self.grid**2, width))
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.modulation, self.out = nn.Linear(width, 2 * width), nn.Linear(width, patch * patch * colors)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Maps noisy latents, times and labels to estimates of the velocity."""
        b, g, p = len(x), self.grid, self.patch
        h = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        emb = functional.silu(self.time(sinusoids(t, 256)) + self.label(label))
        for block in self.blocks:
            h = block(h, emb)
        shift, scale = self.modulation(emb)[:, None].chunk(2, dim=2)
        h = self.out(functional.layer_norm(h, h.shape[2:], eps=1e-6) * (1 + scale) + shift)
        return h.reshape(b, g, g, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, g * p, g * p)


class Diffusion(Peer):
    """The U-Net that predicts the noise of DDPM, or the transformer that predicts the velocity of a linear path."""

    def make(self) -> list[nn.Module]:
        """Returns the network."""
        make = {"unet": UNet, "dit": DiT}[self.case["network"]]
        return [make(tuple(self.case["shape"]), self.case["classes"], **self.case["arguments"])]

    def turns(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields the squared error; some labels are dropped."""
        yield 0, self._error

    def _error(self) -> Tensor:
        x, noise, label = self.noise(), self.noise(), self.labels()
        label = torch.where(torch.rand(len(x)) < 0.1, self.case["classes"], label)
        t = torch.rand(len(x))
        if self.case["network"] == "dit":
            mixed = (1 - t)[:, None, None, None] * x + t[:, None, None, None] * noise
            return functional.mse_loss(self.called[0](mixed, t, label), noise - x)
        angle = (t * torch.pi / 2)[:, None, None, None]
        return functional.mse_loss(self.called[0](angle.cos() * x + angle.sin() * noise, 1000 * t, label), noise)

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Follows Euler's steps, of DDIM or of the velocity."""
        x, label, count = self.noise(), self.labels(), self.case["evaluations"]
        self.average.eval()
        for i in range(count):
            t, s = 1 - i / count, 1 - (i + 1) / count
            out = self.drawing(x, torch.full((len(x),), t if self.case["network"] == "dit" else 999 * t), label)
            if self.case["network"] == "dit":
                x = x + (s - t) * out
                continue
            a, b = torch.tensor([0.999 * t * torch.pi / 2, s * torch.pi / 2]).unbind()
            clean = ((x - a.sin() * out) / a.cos()).clamp(-1, 1)
            x = b.cos() * clean + b.sin() * (x - a.cos() * clean) / a.sin()
        return x

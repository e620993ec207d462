"""DCGAN and SNGAN, written plainly in PyTorch, with their training and sampling."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch_peer import Peer

LATENT = {"dcgan": 100, "sngan": 128}


def generator(shape: tuple[int, int, int], latent: int, width: int, halvings: int) -> nn.Sequential:
    """Returns the generator of DCGAN (Radford et al. 2016)."""
    side, _, colors = shape
    base, channels = side >> halvings, [width << i for i in reversed(range(halvings))]
    layers: list[nn.Module] = [
        nn.Linear(latent, base * base * channels[0], bias=False),
        nn.Unflatten(1, (channels[0], base, base)),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
    ]
    for inputs, outputs in itertools.pairwise(channels):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], colors, 4, 2, 1, bias=False), nn.Tanh())


def discriminator(shape: tuple[int, int, int], width: int, halvings: int) -> nn.Sequential:
    """Returns the discriminator of DCGAN."""
    side, _, inputs = shape
    layers: list[nn.Module] = []
    for i in range(halvings):
        layers.append(nn.Conv2d(inputs, width << i, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(width << i)] if i else []
        layers.append(nn.LeakyReLU(0.2))
        inputs = width << i
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * (side >> halvings) ** 2, 1, bias=False))


class UpBlock(nn.Module):
    """A block of SNGAN's generator (Miyato et al. 2018, appendix B.4), which doubles height and width."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.norm_0, self.norm_1 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(channels)
        self.conv_0 = nn.Conv2d(inputs, channels, 3, padding=1)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps features to `channels` features."""
        h = self.conv_0(_doubled(functional.relu(self.norm_0(x))))
        return self.conv_1(functional.relu(self.norm_1(h))) + _doubled(self.shortcut(x))


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class DownBlock(nn.Module):
    """A block of SNGAN's discriminator, which may halve height and width; all layers are spectrally normalized."""

    def __init__(self, inputs: int, channels: int, *, first: bool, halves: bool) -> None:
        super().__init__()
        self.first, self.halves = first, halves
        hidden = channels if first else inputs
        self.conv_0 = spectral_norm(nn.Conv2d(inputs, hidden, 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(hidden, channels, 3, padding=1))
        changes = halves or inputs != channels
        self.shortcut = spectral_norm(nn.Conv2d(inputs, channels, 1)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps features, or an image, to `channels` features."""
        x = x if self.first else functional.relu(x)
        h = self.conv_1(functional.relu(self.conv_0(x)))
        if self.halves:
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        return h + self.shortcut(x)


class SNGANGenerator(nn.Module):
    """The residual generator of SNGAN, with bilinear upsampling as in mimicry (Lee and Town 2020)."""

    def __init__(self, shape: tuple[int, int, int], channels: Sequence[int]) -> None:
        super().__init__()
        side, _, colors = shape
        base = side >> (len(channels) - 1)
        self.stem = nn.Linear(LATENT["sngan"], base * base * channels[0])
        self.unflatten = nn.Unflatten(1, (channels[0], base, base))
        self.blocks = nn.Sequential(*(UpBlock(*pair) for pair in itertools.pairwise(channels)))
        self.norm, self.out = nn.BatchNorm2d(channels[-1]), nn.Conv2d(channels[-1], colors, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Maps latents to images."""
        return self.out(functional.relu(self.norm(self.blocks(self.unflatten(self.stem(z)))))).tanh()


class SNGANDiscriminator(nn.Module):
    """The residual discriminator of SNGAN."""

    def __init__(self, shape: tuple[int, int, int], channels: Sequence[int], halvings: int) -> None:
        super().__init__()
        widths = [shape[2], *channels]
        self.blocks = nn.Sequential(
            *(DownBlock(*widths[i : i + 2], first=i == 0, halves=i < halvings) for i in range(len(channels)))
        )
        self.out = spectral_norm(nn.Linear(channels[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps images to logits."""
        return self.out(functional.relu(self.blocks(x)).sum((2, 3)))


class Adversarial(Peer):
    """Two players, each with latents of its own."""

    def latents(self) -> Tensor:
        """Returns a batch of latents."""
        return torch.randn(self.case["batch"], LATENT[self.case["network"]])

    def fakes(self) -> Tensor:
        """Returns generated images without gradients."""
        with torch.no_grad():
            return self.called[0](self.latents())

    def logistic_losses(self) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """Returns the non-saturating losses of the generator and of the discriminator."""
        generate, discriminate = self.called

        def of_discriminator() -> Tensor:
            real, fake = discriminate(self.noise()), discriminate(self.fakes())
            return functional.softplus(-real).mean() + functional.softplus(fake).mean()

        return lambda: functional.softplus(-discriminate(generate(self.latents()))).mean(), of_discriminator

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Maps latents to images."""
        self.average.eval()
        return self.drawing(self.latents())


class DCGAN(Adversarial):
    """DCGAN, one turn each."""

    def make(self) -> list[nn.Module]:
        """Returns generator and discriminator."""
        shape, arguments = tuple(self.case["shape"]), self.case["arguments"]
        return [generator(shape, LATENT["dcgan"], **arguments), discriminator(shape, **arguments)]

    def turns(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields the discriminator's loss, then the generator's."""
        of_generator, of_discriminator = self.logistic_losses()
        yield 1, of_discriminator
        yield 0, of_generator


class SNGAN(Adversarial):
    """SNGAN: the hinge loss, several turns of the discriminator."""

    def make(self) -> list[nn.Module]:
        """Returns generator and discriminator."""
        shape, given = tuple(self.case["shape"]), self.case["arguments"]
        generating = SNGANGenerator(shape, given["generator"])
        return [generating, SNGANDiscriminator(shape, given["discriminator"], given["halvings"])]

    def turns(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields the discriminator's losses, each of images of its own, then the generator's."""
        generate, discriminate = self.called

        def of_discriminator() -> Tensor:
            # In one pass: a second one would change the vectors of the power iteration, which gradients need.
            real, fake = discriminate(torch.cat([self.noise(), self.fakes()])).chunk(2)
            return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()

        for _ in range(self.case["arguments"]["n_critic"]):
            yield 1, of_discriminator
        yield 0, lambda: -discriminate(generate(self.latents())).mean()

"""Trains and samples one of the peers of `benchmarks/speed.py` in PyTorch, when its standard input says so.

    python benchmarks/peers/torch_speed.py CASE MODE

CASE is a line of JSON: the network, its arguments, shape and classes of the data, batch size, evaluations of a sample.
MODE is eager, channels_last or compile. See `benchmarks/speed_protocol.py` for what is read and written.
"""

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch_networks as networks
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parent.parent))
from speed_protocol import serve

DECAY, LATENT = 0.999, 100


class Peer:
    """A peer with an optimizer step and a way to draw samples.

    Attributes:
      modules: all networks.
      average: the moving average of the network that is sampled.
    """

    def __init__(self, case: dict[str, Any], mode: str) -> None:
        self.case, self.layout = case, torch.channels_last if mode == "channels_last" else torch.contiguous_format
        self.modules = [module.to(memory_format=self.layout) for module in self.make()]
        self.average = copy.deepcopy(self.modules[0]).requires_grad_(False)
        self.parameters = [sum(p.numel() for p in module.parameters()) for module in self.modules]
        rates = {"lr": 2e-4, "betas": tuple(case.get("betas", (0.9, 0.999)))}
        self.optimizers = [torch.optim.Adam(module.parameters(), **rates) for module in self.modules]
        self.called = [torch.compile(module) if mode == "compile" else module for module in self.modules]
        self.drawing = torch.compile(self.average) if mode == "compile" else self.average

    def make(self) -> list[nn.Module]:
        """Returns the networks, the one to sample first."""
        raise NotImplementedError

    def losses(self, x: Tensor, label: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yields the networks to update, by number, each with its loss."""
        raise NotImplementedError

    def sample(self) -> Tensor:
        """Draws a batch of images."""
        raise NotImplementedError

    def noise(self) -> Tensor:
        """Returns normal noise of the shape of a batch of images."""
        side, _, colors = self.case["shape"]
        return torch.randn(self.case["batch"], colors, side, side).to(memory_format=self.layout)

    def labels(self) -> Tensor:
        """Returns random labels."""
        return torch.randint(0, self.case["classes"], (self.case["batch"],))

    def step(self) -> None:
        """Does one step of training on random images."""
        for number, loss in self.losses(self.noise(), self.labels()):
            self.optimizers[number].zero_grad()
            loss.backward()
            self.optimizers[number].step()
        means, values = list(self.average.parameters()), list(self.modules[0].parameters())
        with torch.no_grad():
            torch._foreach_lerp_(means, values, 1 - DECAY)


class Diffusion(Peer):
    """The U-Net that predicts the noise of DDPM, or the transformer that predicts the velocity of a linear path."""

    def make(self) -> list[nn.Module]:
        """Returns the network."""
        make = {"unet": networks.UNet, "dit": networks.DiT}[self.case["network"]]
        return [make(tuple(self.case["shape"]), self.case["classes"], **self.case["arguments"])]

    def losses(self, x: Tensor, label: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yields the squared error; some labels are dropped."""
        label = torch.where(torch.rand(len(x)) < 0.1, self.case["classes"], label)
        noise, t = self.noise(), torch.rand(len(x))
        if self.case["network"] == "dit":
            mixed = (1 - t)[:, None, None, None] * x + t[:, None, None, None] * noise
            yield 0, functional.mse_loss(self.called[0](mixed, t, label), noise - x)
        else:
            angle = (t * torch.pi / 2)[:, None, None, None]
            yield 0, functional.mse_loss(self.called[0](angle.cos() * x + angle.sin() * noise, 1000 * t, label), noise)

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Follows Euler's steps, of DDIM or of the velocity."""
        x, label, count = self.noise(), self.labels(), self.case["evaluations"]
        self.drawing.eval()
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


class DCGAN(Peer):
    """DCGAN, each player with latents of its own; the fakes go through the discriminator apart from real images."""

    def make(self) -> list[nn.Module]:
        """Returns generator and discriminator."""
        shape, arguments = tuple(self.case["shape"]), self.case["arguments"]
        return [networks.generator(shape, LATENT, **arguments), networks.discriminator(shape, **arguments)]

    def losses(self, x: Tensor, label: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yields the discriminator's loss, then the generator's."""
        generate, discriminate = self.called
        with torch.no_grad():
            fake = generate(torch.randn(len(x), LATENT))
        yield 1, functional.softplus(-discriminate(x)).mean() + functional.softplus(discriminate(fake)).mean()
        yield 0, functional.softplus(-discriminate(generate(torch.randn(len(x), LATENT)))).mean()

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Maps latents to images."""
        return self.drawing.eval()(torch.randn(self.case["batch"], LATENT))


class VAE(Peer):
    """The convolutional VAE."""

    def make(self) -> list[nn.Module]:
        """Returns the encoder and decoder as one."""
        return [networks.VAE(tuple(self.case["shape"]), **self.case["arguments"])]

    def losses(self, x: Tensor, label: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yields the negative bound."""
        yield 0, self.called[0](x)

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Decodes latents of the prior."""
        return self.average.decoder(torch.randn(self.case["batch"], self.case["arguments"]["latent"]))


def flops(run: Callable[[], Any]) -> int:
    """Returns the floating-point operations of products and convolutions, counted from their shapes."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def main() -> None:
    """Makes the peer and serves."""
    case, mode = json.loads(sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    peer = {"dcgan": DCGAN, "vae": VAE}.get(case["network"], Diffusion)(case, mode)
    facts: dict[str, Any] = {"parameters": peer.parameters, "versions": {"torch": torch.__version__}}
    if mode == "eager":
        facts["flops"] = {"train": flops(peer.step), "sample": flops(peer.sample)}

    def train() -> None:
        for module in peer.modules:
            module.train()
        peer.step()

    serve({"train": train, "sample": peer.sample}, facts)


if __name__ == "__main__":
    main()

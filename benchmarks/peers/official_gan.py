"""Trains the official StyleGAN2 or R3GAN in PyTorch for `benchmarks/speed.py`, when its standard input says so.

    python benchmarks/peers/official_gan.py CASE CHECKOUT

CASE is a line of JSON: the network (`stylegan2-ada-pytorch` or `R3GAN`), its arguments, shape of the data, batch
size. CHECKOUT is a folder with the official code, NVlabs/stylegan2-ada-pytorch or brownvc/R3GAN, of which networks,
losses and CUDA kernels are imported; a step here does what one of its training loop does, on random images that are
on the device already and without augmentation. Precision is that of the official presets: float16 or bfloat16 in the
finest stages, elsewhere float32 without TF32. See `benchmarks/speed_protocol.py` for what is read and written.
"""

import contextlib
import copy
import importlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parent.parent))
from speed_protocol import peak_memory, seconds_since_start, serve


class Phase(NamedTuple):
    """One of the updates of a step: its name in the official loss, the player, and the steps between two of them."""

    name: str
    player: nn.Module
    optimizer: torch.optim.Optimizer
    every_steps: int


class Official:
    """The official networks and loss, with the steps of the official training loop.

    Attributes:
      parameters: numbers of parameters of generator and discriminator.
      steps: how many steps there have been.
    """

    def __init__(self, case: dict[str, Any], checkout: str) -> None:
        sys.path.insert(0, checkout)
        importlib.import_module("torch_utils.custom_ops").verbosity = "none"  # standard output is the protocol's
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.arguments, self.batch, (side, _, colors) = case["arguments"], case["batch"], case["shape"]
        networks, self.losses = importlib.import_module("training.networks"), importlib.import_module("training.loss")
        made = self.make(networks, {"c_dim": 0, "img_resolution": side}, colors)
        self.generator, self.discriminator = (player.requires_grad_(False).to(self.device) for player in made)
        self.average = copy.deepcopy(self.generator).eval()
        self.parameters = [sum(p.numel() for p in player.parameters()) for player in made]
        self.images = torch.randint(0, 256, (self.batch, colors, side, side), dtype=torch.uint8, device=self.device)
        self.no_label = torch.zeros(self.batch, 0, device=self.device)
        self.phases, self.steps = self.make_phases(), 0

    def make(self, networks: Any, shared: dict[str, Any], colors: int) -> tuple[nn.Module, nn.Module]:
        """Returns generator and discriminator, and makes nothing else."""
        raise NotImplementedError

    def make_phases(self) -> list[Phase]:
        """Makes loss and optimizers, and returns the updates in their order."""
        raise NotImplementedError

    def accumulate(self, phase: Phase, images: Tensor, latents: Tensor) -> None:
        """Adds to the gradients those of a phase."""
        raise NotImplementedError

    def update(self, phase: Phase) -> None:
        """Does an optimizer step with the gradients."""
        raise NotImplementedError

    def step(self) -> None:
        """Does one step of training, with the phases whose turn it is."""
        images = self.images.to(torch.float32) / 127.5 - 1
        latents = torch.randn(len(self.phases), self.batch, self.generator.z_dim, device=self.device)
        for phase, own in zip(self.phases, latents, strict=True):
            if self.steps % phase.every_steps == 0:
                phase.optimizer.zero_grad(set_to_none=True)
                phase.player.requires_grad_(True)
                self.accumulate(phase, images, own)
                phase.player.requires_grad_(False)
                self.update(phase)
        decay = 0.5 ** (self.batch / self.arguments["half_life_images"])
        for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.copy_(value.lerp(mean, decay))
        for mean, value in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            mean.copy_(value)
        self.steps += 1


class StyleGAN2(Official):
    """The training of NVlabs/stylegan2-ada-pytorch (`training/training_loop.py`): Gmain, Greg, Dmain, Dreg."""

    def make(self, networks: Any, shared: dict[str, Any], colors: int) -> tuple[nn.Module, nn.Module]:
        widths = {name: self.arguments[name] for name in ("channel_base", "channel_max")}
        precision = {"num_fp16_res": self.arguments["float16_stages"], "conv_clamp": 256}
        shared = {**shared, "img_channels": colors}
        generator = networks.Generator(
            z_dim=self.arguments["latent"],
            w_dim=self.arguments["latent"],
            mapping_kwargs={"num_layers": self.arguments["mapping"]},
            synthesis_kwargs={**widths, **precision},
            **shared,
        )
        epilogue = {"mbstd_group_size": self.arguments["group_size"]}
        return generator, networks.Discriminator(epilogue_kwargs=epilogue, **widths, **precision, **shared)

    def make_phases(self) -> list[Phase]:
        self.loss = self.losses.StyleGAN2Loss(
            self.device,
            self.generator.mapping,
            self.generator.synthesis,
            self.discriminator,
            style_mixing_prob=0.9,
            r1_gamma=self.arguments["gamma"],
        )
        phases = []
        for name, player, every in (("G", self.generator, 4), ("D", self.discriminator, 16)):
            ratio = every / (every + 1)
            rates = {"lr": self.arguments["learning_rate"] * ratio, "betas": (0.0, 0.99**ratio)}
            optimizer = torch.optim.Adam(player.parameters(), eps=1e-8, **rates)
            phases += [Phase(f"{name}main", player, optimizer, 1), Phase(f"{name}reg", player, optimizer, every)]
        return phases

    def accumulate(self, phase: Phase, images: Tensor, latents: Tensor) -> None:
        given = {"real_c": self.no_label, "gen_c": self.no_label, "sync": True, "gain": phase.every_steps}
        self.loss.accumulate_gradients(phase=phase.name, real_img=images, gen_z=latents, **given)

    def update(self, phase: Phase) -> None:
        for parameter in phase.player.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        phase.optimizer.step()


class R3GAN(Official):
    """The training of brownvc/R3GAN (`training/training_loop.py`): D, then G; its schedules stay at their starts."""

    def make(self, networks: Any, shared: dict[str, Any], colors: int) -> tuple[nn.Module, nn.Module]:
        del colors  # always three
        widths, low = self.arguments["widths"], self.arguments["bfloat16_stages"]
        generator = {
            "WidthPerStage": widths,
            "CardinalityPerStage": self.arguments["groups"],
            "BlocksPerStage": [2] * len(widths),
            "ExpansionFactor": 2,
        }
        discriminator = {name: value[::-1] if isinstance(value, list) else value for name, value in generator.items()}
        latent = {"NoiseDimension": self.arguments["latent"], "FP16Stages": [-1 - i for i in range(low)]}
        return (
            networks.Generator(**generator, **latent, **shared),
            networks.Discriminator(**discriminator, FP16Stages=list(range(low)), **shared),
        )

    def make_phases(self) -> list[Phase]:
        self.loss = self.losses.R3GANLoss(G=self.generator, D=self.discriminator)
        phases = []
        for name, player in (("D", self.discriminator), ("G", self.generator)):
            optimizer = torch.optim.Adam(player.parameters(), lr=2e-4, betas=(0.0, 0.9), eps=1e-8)
            phases.append(Phase(name, player, optimizer, 1))
        return phases

    def accumulate(self, phase: Phase, images: Tensor, latents: Tensor) -> None:
        given = {"real_c": self.no_label, "gamma": self.arguments["gamma"], "gain": 1}
        self.loss.accumulate_gradients(phase=phase.name, real_img=images, gen_z=latents, **given)

    def update(self, phase: Phase) -> None:
        found = [parameter for parameter in phase.player.parameters() if parameter.grad is not None]
        flat = torch.cat([parameter.grad.flatten() for parameter in found])  # as if it came from several devices
        for parameter, gradient in zip(found, flat.split([p.numel() for p in found]), strict=True):
            parameter.grad = gradient.reshape(parameter.shape)
        phase.optimizer.step()


PEERS = {"stylegan2-ada-pytorch": StyleGAN2, "R3GAN": R3GAN}


def main() -> None:
    """Makes the peer and serves."""
    case = json.loads(sys.argv[1])
    torch.manual_seed(0)
    peer = PEERS[case["network"]](case, sys.argv[2])
    synchronize = torch.cuda.synchronize if peer.device.type == "cuda" else lambda: None

    def train() -> None:
        for _ in range(case["steps"]):
            peer.step()
        synchronize()

    with contextlib.redirect_stdout(sys.stderr):  # the first step compiles the CUDA kernels
        peer.step()
        synchronize()
    facts = {"first_step": seconds_since_start(), "parameters": peer.parameters}
    peer.steps = 0
    memory = torch.cuda.max_memory_allocated if peer.device.type == "cuda" else peak_memory
    serve({"train": train}, {**facts, "versions": {"torch": torch.__version__}}, memory)


if __name__ == "__main__":
    main()

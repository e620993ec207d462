"""Trains and samples one of the peers of `benchmarks/speed.py` in PyTorch, when its standard input says so.

    python benchmarks/peers/torch_speed.py CASE MODE

CASE is a line of JSON: the network, its arguments, shape and classes of the data, batch size, evaluations of a sample.
MODE is eager, channels_last or compile. See `benchmarks/speed_protocol.py` for what is read and written.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch_diffusion import Diffusion
from torch_gan import DCGAN, SNGAN
from torch_glow import Glow
from torch_pixelcnnpp import PixelCNN
from torch_stylegan2 import StyleGAN2
from torch_vae import VAE

sys.path.append(str(Path(__file__).parent.parent))
from speed_protocol import seconds_since_start, serve

PEERS = {
    "unet": Diffusion,
    "dit": Diffusion,
    "dcgan": DCGAN,
    "sngan": SNGAN,
    "stylegan2": StyleGAN2,
    "vae": VAE,
    "pixelcnnpp": PixelCNN,
    "glow": Glow,
}


def flops(run: Callable[[], Any]) -> int:
    """Returns the floating-point operations of products and convolutions, counted from their shapes.

    Those of attention are counted where it is written as two products: the counter does not know the fused one of CPUs.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def main() -> None:
    """Makes the peer and serves."""
    case, mode = json.loads(sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    peer = PEERS[case["network"]](case, mode)

    def train() -> None:
        for module in peer.modules:
            module.train()
        for _ in range(case["steps"]):
            peer.step()

    runs = {"train": train} | ({"sample": peer.sample} if case["samples"] else {})
    for module in peer.modules:
        module.train()
    peer.step()
    facts: dict[str, Any] = {"first_step": seconds_since_start(), "parameters": peer.parameters}
    facts["versions"] = {"torch": torch.__version__}
    if mode == "eager":
        peer.steps = 0
        facts["flops"] = {name: flops(run) for name, run in runs.items()}
    peer.steps = 0
    serve(runs, facts)


if __name__ == "__main__":
    main()

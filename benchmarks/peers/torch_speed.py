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
from official_edm import EDM
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch_diffusion import Diffusion
from torch_gan import DCGAN, SNGAN
from torch_glow import Glow
from torch_pixelcnnpp import PixelCNN
from torch_stylegan2 import StyleGAN2
from torch_vae import VAE

sys.path.append(str(Path(__file__).parent.parent))
from speed_protocol import peak_memory, seconds_since_start, serve

PEERS = {
    "unet": Diffusion,
    "dit": Diffusion,
    "edm": EDM,
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


def counted(case: dict[str, Any]) -> dict[str, int]:
    """Returns the operations of the steps and of a batch of samples, of networks without values."""
    cycle = case.get("cycle", case["steps"])
    with torch.device("meta"):
        peer = PEERS[case["network"]]({name: case[name] for name in case if name != "dtype"}, "eager")
        for optimizer in peer.optimizers:  # which would ask for values
            optimizer.step = lambda: None

        def train() -> None:
            for _ in range(cycle):
                peer.step()

        found = {"train": flops(train) * case["steps"] // cycle}
        return found | ({"sample": flops(peer.sample)} if case["samples"] else {})


def prepare_gpu() -> None:
    """Puts everything on the GPU, with the settings that are fastest there."""
    torch.set_default_device("cuda")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")


def main() -> None:
    """Makes the peer and serves."""
    case, mode = json.loads(sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        prepare_gpu()
    finish = torch.cuda.synchronize if on_gpu else lambda: None
    peer = PEERS[case["network"]](case, mode)

    def train() -> None:
        for module in peer.modules:
            module.train()
        for _ in range(case["steps"]):
            peer.step()
        finish()

    def sample() -> None:
        with peer.precision():
            peer.sample()
        finish()

    runs = {"train": train} | ({"sample": sample} if case["samples"] else {})
    for module in peer.modules:
        module.train()
    peer.step()
    finish()
    facts: dict[str, Any] = {"first_step": seconds_since_start(), "parameters": peer.parameters}
    facts["versions"] = {"torch": torch.__version__}
    if mode == "eager" or on_gpu:  # no GPU runs the eager form
        facts["flops"] = counted(case)
    peer.steps = 0
    serve(runs, facts, torch.cuda.max_memory_allocated if on_gpu else peak_memory)


if __name__ == "__main__":
    main()

"""Peak rates of accelerators, by their makers, for `parallel.plan`; per device (a chip of a TPU)."""

from typing import NamedTuple

_GIB, _GB, _TERA = 2**30, 1e9, 1e12


class Accelerator(NamedTuple):
    """The peak rates and the memory of a device.

    Attributes:
      flops: operations a second, dense, in bfloat16.
      flops_float32: those of float32 products at JAX's default precision (bfloat16 on a TPU, TF32 on a GPU).
      memory: bytes.
      memory_rate: bytes a second between memory and cores.
      near_rate: bytes a second that a ring of near devices passes on, in one direction.
      near_devices: how many devices are near each other: a TPU pod, a host of GPUs.
      far_rate: bytes a second of a device to those that are not near.
    """

    flops: float
    flops_float32: float
    memory: float
    memory_rate: float
    near_rate: float
    near_devices: int
    far_rate: float


ACCELERATORS = {
    # cloud.google.com/tpu/docs (v4, v5e, v5p); a ring along one axis of the torus uses two of a chip's links. The data
    # center network is that of the pod divided by its chips (v4: jax-ml.github.io/scaling-book/tpus).
    "tpu-v4": Accelerator(275 * _TERA, 275 * _TERA, 32 * _GIB, 1228 * _GB, 100 * _GB, 4096, 6.25 * _GB),
    "tpu-v5e": Accelerator(197 * _TERA, 197 * _TERA, 16 * _GIB, 819 * _GB, 100 * _GB, 256, 3.1 * _GB),
    "tpu-v5p": Accelerator(459 * _TERA, 459 * _TERA, 95 * _GIB, 2765 * _GB, 200 * _GB, 8960, 6.25 * _GB),
    # nvidia.com: data sheets of A100 80GB SXM, H100 SXM, H200 SXM; NVLink in one direction; a network of 200 (A100) and
    # 400 Gbit/s a GPU, as in NVIDIA's DGX reference designs.
    "a100": Accelerator(312 * _TERA, 156 * _TERA, 80 * _GB, 2039 * _GB, 300 * _GB, 8, 25 * _GB),
    "h100": Accelerator(989 * _TERA, 494 * _TERA, 80 * _GB, 3350 * _GB, 450 * _GB, 8, 50 * _GB),
    "h200": Accelerator(989 * _TERA, 494 * _TERA, 141 * _GB, 4800 * _GB, 450 * _GB, 8, 50 * _GB),
}

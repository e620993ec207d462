"""The models of `benchmarks/speed.py`: for jaxgen a config with its settings, for PyTorch a network with its arguments.

Fields of a case: `steps` is the number of training steps that are timed as one, which is that of a whole cycle where
steps differ, or several cycles of `cycle` steps each; `samples` says whether sampling is timed; `players` names those
whose parameters are counted, in the order of the peer's networks; `evaluations` is the number of network evaluations of
a sample; `dtype` is that of networks, float32 if not given; `modes` are the forms of PyTorch, if not all; with
`official` the network is that of a checkout of official code, which official_gan.py trains.
"""

from typing import Any

_DDIM = {"sampler.name": "ddim", "sampler.num_steps": 10, "sampler.guidance_scale": 1.0}
_DIGITS = {"base": 32, "multipliers": (1, 2), "blocks": 1, "attention": (), "dropout": 0.0, "groups": 8}
_SHAPES = {"base": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention": (8,), "dropout": 0.1, "groups": 32}
_AT_64 = {"base": 32, "multipliers": (1, 2, 2, 4), "blocks": 2, "attention": (16,), "dropout": 0.1, "groups": 8}
_AT_64_SETTINGS = {
    "model.base_channels": 32,
    "model.channel_multipliers": (1, 2, 2, 4),
    "model.attention_resolutions": (16,),
    "model.num_groups": 8,
}
_GAN = {"shape": (32, 32, 3), "classes": 6, "players": ("generator", "discriminator")}


def _case(config: str, network: str, arguments: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "config": config,
        "settings": {},
        "shape": (32, 32, 3),
        "classes": 6,
        "steps": 1,
        "samples": True,
        "network": network,
        "arguments": arguments,
        **fields,
    }


def _unet(config: str, side: int, arguments: dict[str, Any], **fields: Any) -> dict[str, Any]:
    given = {"shape": (side, side, 3), "batch": 32, "settings": _DDIM, "evaluations": 10, "clip_norm": 1.0, **fields}
    return _case(config, "unet", arguments, **{name: value for name, value in given.items() if value is not None})


CASES: dict[str, dict[str, Any]] = {
    "unet8": _unet("ddpm:digits", 8, _DIGITS, shape=(8, 8, 1), classes=10, batch=64, clip_norm=None),
    "unet16": _unet("ddpm:shapes", 16, _SHAPES),
    "unet32": _unet("ddpm:shapes", 32, _SHAPES),
    "unet64": _unet("ddpm:shapes", 64, _AT_64, batch=16, settings={**_DDIM, **_AT_64_SETTINGS}),
    "dit_s2": _case(
        "sit:shapes",
        "dit",
        {"patch": 2, "width": 384, "depth": 12, "heads": 6},
        settings={"model.patch_size": 2, "sampler.name": "euler", "sampler.num_steps": 2},
        shape=(32, 32, 4),
        classes=1000,
        batch=8,
        evaluations=2,
    ),
    "dcgan": _case("dcgan:shapes", "dcgan", {"width": 64, "halvings": 3}, batch=128, betas=(0.5, 0.999), **_GAN),
    "sngan": _case(
        "sngan:shapes",
        "sngan",
        {"generator": (64,) * 4, "discriminator": (32,) * 4, "halvings": 2, "n_critic": 5},
        settings={"generator.channels": (64,) * 4, "discriminator.channels": (32,) * 4},
        batch=32,
        betas=(0.0, 0.9),
        **_GAN,
    ),
    "stylegan2": _case(
        "stylegan2:shapes",
        "stylegan2",
        {"latent": 128, "mapping": 2, "channel_base": 2048, "channel_max": 128, "r1_every": 4},
        settings={"gan.terms": ("r1(gamma=0.01, every_steps=4)",)},
        batch=16,
        steps=4,
        betas=(0.0, 0.99),
        **_GAN,
    ),
    "vae": _case("vae:shapes", "vae", {"latent": 16, "width": 32, "hidden": 256, "halvings": 3}, batch=128),
    "pixelcnnpp": _case(
        "pixelcnnpp:cifar10",
        "pixelcnnpp",
        {"filters": 32, "blocks": 2, "resolutions": 3, "dropout": 0.5, "mixtures": 10},
        settings={"model.filters": 32, "model.num_blocks": 2},
        batch=16,
        betas=(0.95, 0.9995),
        samples=False,
    ),
    "glow": _case(
        "glow:cifar10",
        "glow",
        {"levels": 3, "steps": 4, "width": 256},
        settings={"model.steps": 4, "model.width": 256, "model.scan_layers": False, "model.remat": False},
        batch=32,
    ),
}

_HALF = {"train.compute_dtype": "bfloat16"}
_CIFAR10 = {"base": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (16,), "dropout": 0.1, "groups": 32}


def _transformer(width: int, depth: int, heads: int, batch: int) -> dict[str, Any]:
    network = {"model.hidden_size": width, "model.depth": depth, "model.num_heads": heads, "model.patch_size": 2}
    return _case(
        "sit:shapes",
        "dit",
        {"patch": 2, "width": width, "depth": depth, "heads": heads},
        settings={**_HALF, **network},
        shape=(32, 32, 4),
        classes=1000,
        batch=batch,
        steps=10,
        cycle=1,
        samples=False,
        dtype="bfloat16",
        modes=("compile",),
    )


def _gan_256(config: str, official: str, arguments: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return _case(
        config,
        official,
        arguments,
        shape=(256, 256, 3),
        batch=32,
        samples=False,
        players=("generator", "discriminator"),
        official=True,
        **fields,
    )


GPU_CASES: dict[str, dict[str, Any]] = {
    "ddpm_cifar10": _unet(
        "ddpm:cifar10",
        32,
        _CIFAR10,
        classes=10,
        batch=256,
        steps=10,
        cycle=1,
        settings={**_HALF, "diffusion.class_conditional": True, "diffusion.label_dropout": 0.1},
        samples=False,
        evaluations=None,
        dtype="bfloat16",
    ),
    "edm_cifar10": _case(
        "edm:cifar10",
        "edm",
        {"channels": 128, "multipliers": (2, 2, 2), "blocks": 4, "dropout": 0.13},
        settings={**_HALF, "diffusion.augment_probability": 0.0},
        classes=10,
        batch=256,
        steps=10,
        cycle=1,
        samples=False,
        dtype="bfloat16",
    ),
    "dit_b2": _transformer(768, 12, 12, batch=256),
    "dit_xl2": _transformer(1152, 28, 16, batch=64),
    "r3gan_256": _gan_256(
        "r3gan:ffhq256",
        "R3GAN",
        {
            "latent": 64,
            "widths": [768] * 4 + [384, 192, 96],
            "groups": [96] * 4 + [48, 24, 12],
            "gamma": 150.0,
            "bfloat16_stages": 4,
            "half_life_images": 500_000,
        },
        settings={"data.flip": False, "gan.augment": ()},
        cycle=1,
        steps=4,
    ),
    "stylegan2_256": _gan_256(
        "stylegan2:paper256",
        "stylegan2-ada-pytorch",
        {
            "latent": 512,
            "mapping": 8,
            "channel_base": 16384,
            "channel_max": 512,
            "group_size": 8,
            "gamma": 1.0,
            "learning_rate": 2.5e-3,
            "float16_stages": 4,
            "half_life_images": 20_000,
        },
        settings={"data.flip": False},
        steps=16,
    ),
}

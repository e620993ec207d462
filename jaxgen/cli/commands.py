"""The commands, each with the flags that it takes and with an example: declared here and nowhere else."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from absl import flags

from jaxgen.core.numbers import LARGEST, LARGEST_SEED


class Flag(NamedTuple):
    """A flag of a command.

    Attributes:
      value: the word for its value in the help; empty for a switch.
      help: the sentence about it.
      define: adds it, by name, default and help, to the flags of a command.
      default: the value of a flag that is not given.
      bounds: the smallest and the largest number, both included; None for what is no whole number.
      is_path: whether `~` and variables are expanded in it.
      must_be: the kind of value, for the error message.
    """

    value: str
    help: str
    define: Callable[..., Any]
    default: Any = None
    bounds: tuple[int, int] | None = None
    is_path: bool = False
    must_be: str = ""


class Command(NamedTuple):
    """A command.

    Attributes:
      summary: the sentence about it.
      example: the words after the name of the program and of the command.
      flags: by name.
      module: the module below `jaxgen.cli` with its `main`.
      takes_settings: whether `--config.NAME=VALUE` changes settings of the config that it works on.
      ignores: a regular expression over the names of settings that have no effect on what it does.
      together: whether several processes can do it as one.
      computes: whether its arrays come from programs of JAX, which a wrong compiler would spoil without a word.
    """

    summary: str
    example: str
    flags: Mapping[str, Flag]
    module: str
    takes_settings: bool = True
    ignores: str | None = None
    together: bool = False
    computes: bool = True


def _text(value: str, help: str) -> Flag:
    return Flag(value, help, flags.DEFINE_string)


def _path(value: str, help: str) -> Flag:
    return Flag(value, help, flags.DEFINE_string, is_path=True)


def _whole(help: str, *, default: int | None = None, low: int = 1, high: int = LARGEST) -> Flag:
    return Flag("N", help, flags.DEFINE_integer, default, bounds=(low, high), must_be="a whole number")


def _number(value: str, help: str) -> Flag:
    return Flag(value, help, flags.DEFINE_float, must_be="a number")


def _list(value: str, help: str) -> Flag:
    return Flag(value, help, flags.DEFINE_list)


def _several(value: str, help: str) -> Flag:
    return Flag(value, help, flags.DEFINE_multi_string)


def _choice(options: list[str], help: str, default: str | None = None) -> Flag:
    def define(name: str, default: str | None, help: str, **registry: Any) -> Any:
        return flags.DEFINE_enum(name, default, options, help, **registry)

    return Flag("|".join(options), help, define, default, must_be=f"one of {', '.join(options)}")


def _switch(help: str) -> Flag:
    return Flag("", help, flags.DEFINE_boolean, False, must_be="True or False")


_RUN = _path("DIR", "The directory of a trained run.")
_STEP = _whole("The step of the checkpoint to use; by default the newest one.", low=0)
_SHAPE = _list("H,W,C", "Height, width and channels of the images; by default those of the config's data.")
_SPACE = _choice(["z", "w"], "Latents or styles; by default styles, where the model has them.")
_SEED = _whole("Of the random images.", default=0, low=0, high=LARGEST_SEED)
_LABELS = _list("A,B", "Classes of the images in turn, by name or number; by default all of them.")
_STEM = _path("PATH", "The .npz and .png to write, without suffix; by default one that names the settings.")
_CLASSES = _whole("How many classes the data has; by default as many as the config's data.", low=0)

# Of a trained run; its batch must still divide over the devices.
_OF_TRAINING = r"seed|(optimizer|health|log)\..*|train\.(?!compute_dtype$|microbatches$).*"
_BUT_DATA = rf"{_OF_TRAINING}|evaluate\..*"
_BUT_IMAGES = rf"{_BUT_DATA}|data\.(?!batch_size$).*"
_OF_THE_LOOP = (
    r"train\.((checkpoint|log|sample|snapshot)_.*|keep_.*|init_.*|on_write_error)|log\.(tensorboard|wandb)"
    r"|seed|(sample|evaluate)\..*"
)

PROCESSES = MappingProxyType(
    {
        "coordinator": _text("HOST:PORT", "Address of process 0; by default as launched (docs/multihost)."),
        "num_processes": _whole("How many processes there are; by default as launched."),
        "process_id": _whole("The number of this one, from 0; by default as launched.", low=0),
        "initialization_timeout_seconds": _whole("Time for all processes to come together.", default=300),
        "heartbeat_timeout_seconds": _whole("Time after which a silent process counts as dead.", default=30),
    }
)
"""Flags of the commands that several processes can do as one."""

COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "train": Command(
            "Trains a config in a work directory, or goes on with the run in it; then evaluates it.",
            "--config=vae:digits --workdir=runs/vae --config.train.num_steps=1000",
            {
                "config": _text(
                    "CONFIG",
                    "A config such as ddpm, ddpm:digits, configs/ddpm.py:digits or a file of yours; `list configs` "
                    "shows them. By default that of the run in --workdir, or configs/ddpm.py.",
                ),
                "workdir": _path("DIR", "The directory of the run; by default runs/NAME-VARIANT of the config."),
                "init_from": _path("DIR", "The directory of a run whose weights a new run starts from."),
                "extend": _switch("Lets a run go on for more steps whose schedules depend on their number."),
                **PROCESSES,
            },
            "train",
            together=True,
        ),
        "sample": Command(
            "Draws images from a trained run.",
            "--workdir=runs/ddpm --num_samples=100 --seed=1",
            {
                "workdir": _RUN,
                "num_samples": _whole("How many images to draw."),
                "seed": _whole("Image i is a function of this seed and of i.", default=0, low=0, high=LARGEST_SEED),
                "labels": _list("A,B", "Classes to draw in turn, by name or number; by default all of them, balanced."),
                "cond": _several("NAME=VALUE", "Another condition of all images, such as color=3; may be repeated."),
                "format": _choice(
                    ["npz", "png", "webdataset"],
                    "The files to write: one archive, a picture each, or tars of pictures.",
                    "npz",
                ),
                "output": _path("FILE", "The .npz to write, or the directory; by default one that names the settings."),
                "step": _STEP,
                **PROCESSES,
            },
            "sample",
            ignores=_BUT_IMAGES,
            together=True,
        ),
        "evaluate": Command(
            "Evaluates a trained run, and writes evaluation.json, each figure with its protocol.",
            "--workdir=runs/ddpm --config.evaluate.num_samples=5000",
            {"workdir": _RUN, "step": _STEP, **PROCESSES},
            "evaluate",
            ignores=_OF_TRAINING,
            together=True,
        ),
        "interpolate": Command(
            "Draws paths between random images: between styles, or between latents.",
            "--workdir=runs/stylegan2 --num_samples=8 --steps=10",
            {
                "workdir": _RUN,
                "num_samples": _whole("How many paths.", default=8),
                "steps": _whole("Images in a path, its ends included.", default=8, low=2),
                "space": _SPACE,
                "seed": _SEED,
                "labels": _LABELS,
                "output": _STEM,
                "step": _STEP,
            },
            "interpolate",
            ignores=_BUT_IMAGES,
        ),
        "mix": Command(
            "Draws a table of random images that have some layers' styles of each other.",
            "--workdir=runs/stylegan2 --layers=0,2 --num_samples=5",
            {
                "workdir": _RUN,
                "num_samples": _whole("How many rows, and columns.", default=5),
                "layers": _list("A,B", "The layers from A on, before B, have the styles of the columns."),
                "seed": _SEED,
                "labels": _LABELS,
                "output": _STEM,
                "step": _STEP,
            },
            "mix",
            ignores=_BUT_IMAGES,
        ),
        "traverse": Command(
            "Draws a held-out image with one dimension of its latent moved at a time, the most informative ones first.",
            "--workdir=runs/vae --num_dimensions=10 --steps=9",
            {
                "workdir": _RUN,
                "num_dimensions": _whole("How many dimensions, by divergence from the prior; by default all."),
                "steps": _whole("Images in a row, at quantiles of N(0, 1).", default=9, low=2),
                "example": _whole("The number of the held-out image.", default=0, low=0),
                "output": _STEM,
                "step": _STEP,
            },
            "traverse",
            ignores=_BUT_DATA,
        ),
        "directions": Command(
            "Finds the directions of the latent space that change images most, and draws images along them.",
            "--workdir=runs/stylegan2 --num_directions=5 --by=ganspace",
            {
                "workdir": _RUN,
                "num_directions": _whole("How many directions.", default=5),
                "by": _choice(
                    ["sefa", "ganspace"],
                    "From the first weights in closed form, or as principal components of styles.",
                    "sefa",
                ),
                "weights": _text("REGEX", "With sefa: names of the first weights, where they have to be named."),
                "distance": _number("X", "How far images move to either side; by default 3."),
                "steps": _whole("Images along a direction.", default=7, low=2),
                "num_samples": _whole("How many random images are moved.", default=3),
                "space": _SPACE,
                "seed": _SEED,
                "labels": _LABELS,
                "output": _STEM,
                "step": _STEP,
            },
            "directions",
            ignores=_BUT_IMAGES,
        ),
        "project": Command(
            "Finds the latents, or styles, whose images are nearest to given pictures.",
            "--workdir=runs/stylegan2 --images=face.png --steps=500",
            {
                "workdir": _RUN,
                "images": _list("FILE", "Pictures, which are cropped and resized to the model's size."),
                "steps": _whole("Steps of the search.", default=1000),
                "space": _SPACE,
                "seed": _SEED,
                "labels": _list("A,B", "The class of each picture, by name or number, of a conditional model."),
                "output": _STEM,
                "step": _STEP,
            },
            "project",
            ignores=_BUT_IMAGES,
        ),
        "encode": Command(
            "Caches the latents of a trained autoencoder's data, for a model that is trained on them.",
            "--workdir=runs/autoencoder_kl-shapes --output=runs/latents",
            {
                "workdir": _RUN,
                "output": _path("DIR", "The directory to make."),
                "num_samples": _whole("How many of the training images, at most, a drawn subset; by default all."),
                "dtype": _choice(["float32", "float16"], "The type of latents that are no codes; by default float32."),
                "numbers": _switch("Of a tokenizer: cache the vectors before quantization in the place of codes."),
                "step": _STEP,
            },
            "encode",
            ignores=_BUT_DATA,
        ),
        "compress": Command(
            "Compresses images without loss, by an autoregressive model or, with bits back, a VAE.",
            "--workdir=runs/pixelcnn --output=held-out.jxg",
            {
                "workdir": _RUN,
                "input": _path(
                    "FILE",
                    "An .npz with `images`, and `labels` of a conditional model; by default all held-out images.",
                ),
                "output": _path("FILE", "The file to write."),
                "step": _STEP,
            },
            "compress",
            ignores=_BUT_DATA,
        ),
        "decompress": Command(
            "Writes the images of a file of compress, which come back exactly.",
            "--workdir=runs/pixelcnn --input=held-out.jxg --output=held-out.npz",
            {
                "workdir": _RUN,
                "input": _path("FILE", "What compress has written."),
                "output": _path("FILE", "The .npz to write."),
                "step": _whole("The step of the checkpoint; by default the one that compressed them.", low=0),
            },
            "decompress",
            ignores=_BUT_IMAGES,
        ),
        "import": Command(
            "Makes a run, or a feature extractor, of official weights.",
            "--format=edm --weights=cifar10.safetensors --workdir=runs/edm-cifar10",
            {
                "format": _text("FORMAT", "Whose weights they are; `list formats` shows the formats."),
                "weights": _path("FILE", "The weights: safetensors, a PyTorch checkpoint, or .npz."),
                "workdir": _path("DIR", "The directory to make."),
                "entry": _text("NAME", "The state dict to take of a checkpoint that holds several, such as ema."),
                "config": _text("CONFIG", "A config that fits; by default the first of the format's that does."),
                "image_shape": _SHAPE,
                "num_classes": _CLASSES,
                "autoencoder": _path("DIR", "For a model of latents: the run whose latents they are."),
                "latent_shift": _list("X", "The numbers subtracted from latents; one, or one a channel; by default 0."),
                "latent_scale": _list("X", "The numbers they are then divided by, such as 5.489981; by default 1."),
            },
            "import_weights",
        ),
        "ema": Command(
            "Makes a run of an average of the weights whose width was not kept in training.",
            "--workdir=runs/edm2-digits --sigma_rel=0.12 --output=runs/edm2-wide",
            {
                "workdir": _RUN,
                "sigma_rel": _number("WIDTH", "The width of the average, relative to the length of training: 0.12."),
                "output": _path("DIR", "The directory to make."),
                "step": _STEP,
            },
            "ema",
        ),
        "checkpoints": Command(
            "Lists the checkpoints of a run, verifies their every byte, deletes those that are not kept.",
            "--workdir=runs/ddpm --verify",
            {
                "workdir": _RUN,
                "verify": _switch("Reads every byte, and fails if one has changed."),
                "prune": _switch("Deletes the checkpoints that the run's settings would not keep."),
                "dry_run": _switch("With --prune: only says what would be deleted."),
                "keep_last": _whole("With --prune: how many of the newest to keep; by default the run's setting."),
                "keep_every": _whole("With --prune: keeps multiples of this step; 0 for none.", low=0),
            },
            "checkpoints",
            ignores=r"(?!train\.keep_).*",
            computes=False,
        ),
        "plan": Command(
            "Compiles, and never runs, the update of a config for any number of devices, and prints its cost.",
            "--config=dit:xl2 --devices=256 --mesh=fsdp=8",
            {
                "config": _text("CONFIG", "The config; by default that of the run in --workdir, or configs/ddpm.py."),
                "workdir": _RUN,
                "devices": _whole("For how many devices."),
                "mesh": _list(
                    "AXIS=N", "Sizes of the axes of the mesh, such as data=-1,fsdp=8; by default the config's."
                ),
                "image_shape": _SHAPE,
                "num_classes": _CLASSES,
            },
            "plan",
            ignores=_OF_THE_LOOP,
            computes=False,
        ),
        "list": Command(
            "Lists what there is: configs with their variants, data sets, samplers, losses, formats and more.",
            "samplers",
            {},
            "listing",
            takes_settings=False,
            computes=False,
        ),
        "help": Command(
            "Shows the flags of a command, with an example.",
            "sample",
            {},
            "help",
            takes_settings=False,
            computes=False,
        ),
    }
)
"""All commands by name; the first one is what is done where none is named."""

TOPICS = ("list", "help")
"""Commands that only print, which JAX is not started for; they may have one word after them."""


def registered(command: Command) -> flags.FlagValues:
    """Returns the flags of a command, with their defaults, to be parsed."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    for name, flag in command.flags.items():
        flag.define(name, flag.default, flag.help, flag_values=values)
    return values

"""Names to choose from: configs, data sets, samplers, losses and so on, read from the source.

Nothing is registered, and nothing but the config files is imported: a name is one by where it stands, and the sentence
about it is the first one of its docstring.
"""

import ast
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxgen.core.config import Section, module_names
from jaxgen.core.shared_settings import path_settings
from jaxgen.runs import config_files

_PACKAGE = Path(__file__).parents[1]
_ALTERNATIVES = 3


class Item(NamedTuple):
    """One of the names that a setting or a flag may have.

    Attributes:
      name: as it is given.
      about: a sentence about it, with its source.
      variants: of a config, with a sentence about each.
    """

    name: str
    about: str
    variants: tuple["Item", ...] = ()


class Kind(NamedTuple):
    """A kind of things.

    Attributes:
      title: their name, and how one is chosen.
      find: returns them.
    """

    title: str
    find: Callable[[], list[Item]]


def configs() -> list[Item]:
    """Returns the configs of the package, with their variants."""
    return [
        Item(
            name,
            _sentence(config_files.documentation(name)),
            tuple(Item(f"{name}:{variant}", _sentence(text)) for variant, text in _variants(name)),
        )
        for name in config_files.names()
    ]


def _variants(name: str) -> list[tuple[str, str]]:
    return list(config_files.variants(name).items())


def alternatives(config: Section) -> list[str]:
    """Returns configs of up to three families of methods, `NAME:VARIANT`, for the data of a config by another model.

    Variants are found by their names, which are those of their data. Configs that are named after their methods come
    first, then those with short names.
    """
    data = config.data.name.partition("/")[0].replace("_", "")
    methods = {name.rpartition(".")[2] for name in module_names("jaxgen.methods")}
    found: dict[str, str] = {}
    for name in sorted(config_files.names(), key=lambda name: (name not in methods, len(name), name)):
        for variant in config_files.variants(name):
            if len(found) == _ALTERNATIVES or not variant.startswith(data):
                continue
            other = config_files.load_config_file(f"{name}:{variant}")
            same = other.data.name == config.data.name and not path_settings(config_files.read_only(other))
            if same and _model_of(other) != _model_of(config):
                found.setdefault(other.method.partition(".")[0], f"{name}:{variant}")
    return list(found.values())


def _model_of(config: config_files.Config) -> tuple[str, str | None]:
    return config.method, config.get("model", {}).get("name")


def _data() -> list[Item]:
    """Returns the sources of images; all other names are those of TensorFlow Datasets."""
    entries = [entry for entry in _modules("data/sources") if entry.name != "tfds"]
    (others,) = (entry for entry in _modules("data/sources") if entry.name == "tfds")
    return [*entries, Item("any other", f"{others.about} Such as cifar10, mnist, celeb_a, lsun/bedroom.")]


def _modules(folder: str) -> list[Item]:
    """Returns the modules below a folder by their dotted path, which have their own docstrings."""
    root = _PACKAGE / folder
    files = sorted(path for path in root.rglob("*.py") if path.stem != "__init__")
    return [
        Item(".".join(path.relative_to(root).with_suffix("").parts), _sentence(_doc(_parsed(path)))) for path in files
    ]


def _formats() -> list[Item]:
    return [entry._replace(name=entry.name.replace("_", "-")) for entry in _modules("interop/formats")]


def _samplers() -> list[Item]:
    """Returns the functions that have the names of their modules."""
    files = sorted((_PACKAGE / "diffusion/sampling/samplers").glob("*.py"))
    return [entry for path in files for entry in _functions(path) if entry.name == path.stem]


def _functions_of(file: str) -> Callable[[], list[Item]]:
    return lambda: _functions(_PACKAGE / file)


def _functions(path: Path) -> list[Item]:
    found = [node for node in _parsed(path).body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return [Item(node.name, _sentence(_doc(node))) for node in found]


def _losses() -> list[Item]:
    """Returns the functions of all losses."""
    files = sorted((_PACKAGE / "losses").glob("*.py"))
    return [entry for path in files for entry in _functions(path)]


def _networks_with(fields: set[str], *methods: str) -> Callable[[], list[Item]]:
    """Returns the classes of `jaxgen.nn` that have some fields and methods, those of a protocol, by `module.Class`."""

    def find() -> list[Item]:
        return [
            Item(f"{path.stem}.{node.name}", _sentence(_doc(node)))
            for path in sorted((_PACKAGE / "nn").glob("*.py"))
            for node in _parsed(path).body
            if isinstance(node, ast.ClassDef) and fields <= _fields(node) and set(methods) <= _methods(node)
        ]

    return find


def _fields(node: ast.ClassDef) -> set[str]:
    return {
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def _methods(node: ast.ClassDef) -> set[str]:
    return {item.name for item in node.body if isinstance(item, ast.FunctionDef)}


def _discriminators() -> list[Item]:
    """Returns the networks with what `nn.adversarial` asks of a discriminator, by the name that all of them have."""
    found = _networks_with({"num_classes", "axis_name", "dtype"})()
    return [item for item in found if item.name.endswith(".Discriminator")]


KINDS: Mapping[str, Kind] = {
    "configs": Kind("Configs, for --config=NAME or NAME:VARIANT", configs),
    "datasets": Kind("Data sets, for --config.data.name=NAME", _data),
    "methods": Kind("Methods, which configs choose by the setting method", lambda: _modules("methods")),
    "networks": Kind("Networks, for --config.model.name=NAME", _networks_with({"out_channels", "num_classes"})),
    "samplers": Kind("Samplers of diffusion models, for --config.sampler.name=NAME", _samplers),
    "levels": Kind(
        "Noise levels of samplers, for --config.sampler.levels=NAME", _functions_of("diffusion/process/levels.py")
    ),
    "schedules": Kind(
        "Noise schedules, for --config.diffusion.schedule=NAME", _functions_of("diffusion/process/schedules.py")
    ),
    "parameterizations": Kind(
        "What a diffusion network predicts, for --config.diffusion.parameterization=NAME",
        _functions_of("diffusion/process/parameterizations.py"),
    ),
    "weightings": Kind(
        "Weightings of the diffusion loss, for --config.diffusion.weighting=NAME",
        _functions_of("diffusion/process/weightings.py"),
    ),
    "times": Kind(
        "Distributions of training times, for --config.diffusion.times=NAME",
        _functions_of("diffusion/process/times.py"),
    ),
    "losses": Kind("Losses; the adversarial ones for --config.gan.loss=NAME", _losses),
    "generators": Kind(
        "Networks of adversarial training, for --config.generator.name=NAME",
        _networks_with({"latent_dim", "axis_name"}),
    ),
    "discriminators": Kind("Their adversaries, for --config.discriminator.name=NAME", _discriminators),
    "terms": Kind(
        "Terms of adversarial losses, for --config.gan.terms=\"('NAME',)\"", lambda: _modules("adversarial/terms")
    ),
    "augmentations": Kind(
        "Augmentations for discriminators, for --config.gan.augment=NAME",
        lambda: _modules("adversarial/augmentation/pieces"),
    ),
    "tokenizers": Kind(
        "Networks of tokenizers, for --config.model.name=NAME", _networks_with({"image_channels", "code_dim"})
    ),
    "quantizers": Kind("Their quantizers, for --config.quantizer.name=NAME", lambda: _modules("nn/quantizers")),
    "energies": Kind(
        "Networks of energy-based models, for --config.model.name=NAME",
        _networks_with({"num_classes", "dtype"}, "energies"),
    ),
    "formats": Kind("Formats of official weights, for import --format=NAME", _formats),
}
"""Every kind of things by the word that asks for it."""


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _doc(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    return ast.get_docstring(node) or ""


def _sentence(text: str) -> str:
    """Returns the first sentence of a docstring; one in a citation (`et al.`) does not end it."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    ends = re.finditer(r"(?<!\bal)(?<!\bapp)(?<!\beq)(?<!\beqs)[.](?= [A-Z`]|$)", paragraph)
    end = next((match.end() for match in ends), len(paragraph))
    return paragraph[:end]

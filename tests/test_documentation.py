"""The pages name what there is: the pieces of diffusion, the networks, the configs and the commands."""

import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest

from jaxgen.cli.commands import COMMANDS
from jaxgen.core.config import module_names
from jaxgen.data.sources.shapes import CONDITIONING
from jaxgen.nn.critic_head import Conditioning
from jaxgen.runs import environment
from jaxgen.variational.likelihoods import LikelihoodName

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "diffusion.md").read_text()
README = (ROOT / "README.md").read_text()


def tables(page):
    """The first column of each table of a page, by the heading of that column."""
    found, heading = {}, None
    for line, after in zip(page.splitlines(), [*page.splitlines()[1:], ""], strict=True):
        if not line.startswith("|"):
            heading = None
        elif re.fullmatch(r"[|:-]+", after):
            heading = line.split("|")[1].strip()
            found.setdefault(heading, [])
        elif heading is not None and not re.fullmatch(r"[|:-]+", line):
            found[heading].append(line.split("|")[1])
    return found


def named_in(cells):
    """The names in code style, without the arguments of calls."""
    return sorted(re.match(r"[\w.]+", code).group() for cell in cells for code in re.findall(r"`([^`]+)`", cell))


def public_functions(module):
    """What a config may name in a module: its own public functions."""
    functions = inspect.getmembers(importlib.import_module(module), inspect.isfunction)
    return sorted(name for name, f in functions if f.__module__ == module and not name.startswith("_"))


@pytest.mark.parametrize(
    ("heading", "module"),
    [
        ("path", "paths"),
        ("parameterization", "parameterizations"),
        ("schedule", "schedules"),
        ("times", "times"),
        ("weighting", "weightings"),
        ("noise label", "noise_labels"),
        ("levels", "levels"),
    ],
)
def test_the_page_of_diffusion_lists_every_piece_and_no_other(heading, module):
    assert named_in(tables(PAGE)[heading]) == public_functions(f"jaxgen.diffusion.process.{module}")


def test_the_page_of_diffusion_lists_every_sampler_and_no_other():
    assert named_in(tables(PAGE)["sampler"]) == module_names("jaxgen.diffusion.sampling.samplers")


def test_the_page_of_gans_lists_every_piece_and_no_other():
    table = tables((ROOT / "docs" / "gan.md").read_text())
    assert named_in(table["loss"]) == public_functions("jaxgen.losses.adversarial")
    assert named_in(table["term"]) == module_names("jaxgen.adversarial.terms")
    assert named_in(table["augmentation"]) == module_names("jaxgen.adversarial.augmentation.pieces")
    assert named_in(table["schedule"]) == [
        name for name in public_functions("jaxgen.core.schedules") if name != "constant"
    ]
    assert named_in(table["`discriminator.conditioning`"]) == sorted(typing.get_args(Conditioning))


def test_the_page_of_likelihoods_lists_every_piece_and_no_other():
    table = tables((ROOT / "docs" / "likelihood.md").read_text())
    assert named_in(table["likelihood"]) == sorted(typing.get_args(LikelihoodName))
    assert named_in(table["prior"]) == [
        name for name in public_functions("jaxgen.variational.priors") if name != "log_normal"
    ]
    assert named_in(table["variational term"]) == module_names("jaxgen.variational.terms")
    assert named_in(table["quantizer"]) == module_names("jaxgen.nn.quantizers")
    assert named_in(table["distribution"]) == public_functions("jaxgen.autoregressive.distributions")
    in_order = table["network"]
    configs = [importlib.import_module(f"configs.{name}").get_config("tiny") for name in named_in(in_order)]
    methods = {"flows.flow", "autoregressive.autoregressive"}
    assert {config.method for config in configs} == methods
    every = importlib.import_module("jaxgen.runs.config_files").names()
    own = [name for name in every if importlib.import_module(f"configs.{name}").get_config("tiny").method in methods]
    assert named_in(in_order) == sorted(own)


def test_the_page_of_performance_names_settings_and_variables_that_exist():
    page = (ROOT / "docs" / "performance.md").read_text()
    table, there = tables(page), set()
    names = importlib.import_module("jaxgen.runs.config_files").names()
    for config in (importlib.import_module(f"configs.{name}").get_config("tiny") for name in names):
        there |= {f"{section}.{key}" for section, fields in config.items() if hasattr(fields, "keys") for key in fields}
    named = named_in(table["setting"])
    assert len(named) > 15
    assert set(named) <= there
    source = (ROOT / "jaxgen" / "runs" / "environment.py").read_text()
    assert [name for name in named_in(table["variable"]) if name not in source] == []
    assert set(re.findall(r"--xla_cpu\w+=\w+", page)) == {f"{environment._CPU_OPTION}={environment._CPU_VALUE}"}


def test_the_page_of_data_lists_every_source_with_its_options_and_every_condition():
    page = (ROOT / "docs" / "data.md").read_text()
    table = page.partition("| source | options |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", line) for line in table.splitlines()[2:]]
    listed = {source: options for source, *options in rows}
    there = {}
    for source in module_names("jaxgen.data.sources"):
        parameters = inspect.signature(importlib.import_module(f"jaxgen.data.sources.{source}").load).parameters
        there[source] = [option for option in parameters if option not in ("name", "split")]
    assert {source: sorted(options) for source, options in listed.items()} == {
        source: sorted(options) for source, options in there.items()
    }
    assert named_in(tables(page)["option"]) == sorted(set().union(*there.values()))
    conditions = [name for cell in tables(page)["condition"] for name in re.findall(r"`(\w+)`", cell)]
    assert conditions == list(CONDITIONING)


def test_the_readme_lists_every_method_with_its_configs():
    table = README.partition("| method | `configs/*.py` |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`([^`]+)`", line.rpartition("|")[0].rpartition("|")[0]) for line in table.splitlines()[2:]]
    listed = {method: sorted(configs) for method, *configs in rows}
    assert sorted(listed) == module_names("jaxgen.methods")
    there = {}
    for path in (ROOT / "configs").glob("*.py"):
        if path.stem not in ("__init__", "common", "networks"):
            method = importlib.import_module(f"configs.{path.stem}").get_config("tiny").method
            there.setdefault(method, []).append(path.stem)
    assert listed == {method: sorted(configs) for method, configs in there.items()}


def test_every_command_of_the_readme_is_one():
    used = set(re.findall(r"launch\.py (\w+)", README + PAGE))
    assert used == set(COMMANDS)


def test_every_file_that_a_page_names_exists():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text()
        paths = re.findall(r"`((?:jaxgen|tests|docs|configs|benchmarks)/[\w./]+)`", text)
        for path in paths:
            assert (ROOT / path.split(":")[0]).exists(), f"{page.name} names {path}"
        for link in re.findall(r"\]\(([\w./]+)\)", text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"

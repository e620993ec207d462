"""A newcomer's first hour: everything that can be typed wrong ends with one sentence and code 2, never a traceback.

Only a shell shows exit codes, pipes, encodings and what is imported; the rest is done in this process.
"""

import json
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from launching import TINY, contents, environment, launch

from jaxgen.cli import command_line, help
from jaxgen.cli.commands import COMMANDS, PROCESSES, TOPICS
from jaxgen.runs import catalog, config_files
from jaxgen.training.workdir import load_config

pytestmark = pytest.mark.xdist_group("cli")

ROOT = Path(__file__).parents[2]
SHORT = "--config.evaluate.num_samples=0 --config.log.tensorboard=False --config.parallel.num_devices=1"

FILES = {
    "broken.py": "def get_config(:\n",
    "nothing.py": "x = 1\n",
    "raising.py": "def get_config():\n    return {}['a']\n",
    "importing.py": "import no_such_module_anywhere\n",
    "mapping.py": "def get_config():\n    return {'seed': 0}\n",
    "empty.py": "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict()\n",
    "plain.py": "from configs import vae\n\n\ndef get_config():\n    return vae.get_config('tiny')\n",
    "needy.py": "def get_config(variant):\n    raise AssertionError\n",
    "number.py": "get_config = 3\n",
    "config.yaml": "seed: 0\n",
    "config.json": "{}\n",
    "notes.txt": "notes\n",
    "null.py": "\0",
    "unknown/sitecustomize.py": """
import pwd


def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")


pwd.getpwuid = unknown
""",
}
"""What lies in the directory; the last one makes its user one whom the system does not know."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory with files that a user may take for configs."""
    directory = tmp_path_factory.mktemp("home")
    for name, text in FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    (directory / "folder.py").mkdir()
    (directory / "pictures").mkdir()
    return directory


class Shell(NamedTuple):
    code: int
    out: str
    err: str


SHELL = {
    "help": "{launch} help",
    "--help": "{launch} --help",
    "-h": "{launch} -h",
    "help of everything": "{launch} --helpfull",
    **{f"help {name}": f"{{launch}} help {name}" for name in ("train", "sample")},
    "train --help": "{launch} train --help",
    "--help train": "{launch} --help train --workdir=x",
    "-h behind a flag": "{launch} sample --num_samples=3 -h",
    "help of nothing": "{launch} help trian",
    "list": "{launch} list",
    "list configs": "{launch} list configs",
    "list samplers": "{launch} list samplers",
    "list of nothing": "{launch} list smplers",
    "list into a closed pipe": "set -o pipefail; {launch} list | head -1",
    "list onto a full disk": "{launch} list > /dev/full",
    "list without a standard output": "{launch} list >&-",
    "list without streams": "{launch} list <&- >&- 2>&-",
    "command": "{launch} trian",
    "flag of another command": "{launch} train --num_samples=3",
    "setting as a flag": "{launch} train --num_steps=3",
    "letters in ASCII": "LC_ALL=C PYTHONIOENCODING=ascii {launch} sample --workdir=Läufe --step=ä",
    "unknown user": "unset HOME; PYTHONPATH=unknown {launch} train --workdir=~/x",
}


def run_shell(command: str, cwd: Path) -> Shell:
    text = command.format(launch=shlex.join([sys.executable, str(ROOT / "launch.py")]))
    done = subprocess.run(["bash", "-c", text], cwd=cwd, env=environment(), capture_output=True, check=False)
    return Shell(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def shells(home):
    """The outcomes of all command lines above, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run_shell, text, home) for name, text in SHELL.items()}


def refused(outcome, sentence):
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert re.fullmatch(r"error: [^\n]*[.?]\n", outcome.err), outcome.err
    assert re.search(sentence, outcome.err), outcome.err


@pytest.mark.parametrize("name", ["help", "--help", "-h", "help of everything"])
def test_help_lists_the_commands_and_ends_well(shells, name):
    outcome = shells[name].result()
    assert (outcome.code, outcome.err) == (0, "")
    for command, its in COMMANDS.items():
        assert re.search(rf"^  {command} +{re.escape(its.summary[:30])}", outcome.out, re.MULTILINE), command


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_its_flags_alone_and_an_example(name):
    text = help.text(command_line.parse(["help", name]).word) + "\n"
    shown = set(re.findall(r"^  --(\w+)\b(?!\.)", text, re.MULTILINE)) - {"config"}
    assert shown == set(COMMANDS[name].flags) - {"config"}
    assert ("--config=CONFIG" in text) == ("config" in COMMANDS[name].flags)
    assert f"launch.py {name} {COMMANDS[name].example}\n" in text


def test_an_example_is_one_that_the_command_takes():
    for name, command in COMMANDS.items():
        assert command_line.parse([name, *shlex.split(command.example)]).command == name


@pytest.mark.parametrize(("name", "command"), [
    ("train --help", "train"), ("--help train", "train"), ("-h behind a flag", "sample"),
])  # fmt: skip
def test_help_is_given_wherever_it_is_asked_for(shells, name, command):
    outcome = shells[name].result()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome == shells[f"help {command}"].result()
    program = shlex.join([sys.executable, str(ROOT / "launch.py")])
    assert outcome.out.replace(program, "python launch.py") == f"{help.text(command)}\n"


def test_the_list_has_everything_by_its_name(shells):
    outcome = shells["list"].result()
    assert (outcome.code, outcome.err) == (0, "")
    for kind in catalog.KINDS:
        assert f"\n{kind}: " in f"\n{outcome.out}"
    for line in (
        r"ddpm +DDPM \(Ho et al\. 2020\)\. Variants: digits, tiny, ",
        r"folder +Pictures in a directory",
        r"any other +Image datasets of TensorFlow Datasets",
        r"vae\.vae +The variational autoencoder \(Kingma & Welling 2014",
        r"heun +Heun's method .*\(Karras et al\. 2022",
        r"cosine +.*\(Nichol and Dhariwal 2021",
        r"hinge +Returns the losses of Lim & Ye 2017",
        r"r1 +R1: the squared gradient",
        r"ada +Adaptive discriminator augmentation",
        r"sngan\.Generator +",
        r"autoencoder-kl +Weights of latent diffusion's autoencoder \(Rombach et al\. 2022\)",
        r"unet\.UNet +",
        r"conv_energy\.ConvEnergy +.*\(Grathwohl et al\. 2020\)",
        r"residual_energy\.ResidualEnergy +.*\(Du and Mordatch 2019\)",
    ):
        assert re.search(rf"^  {line}", outcome.out, re.MULTILINE), line


def test_one_kind_is_listed_alone_a_line_each(shells):
    samplers = shells["list samplers"].result()
    modules = {path.stem for path in (ROOT / "jaxgen/diffusion/sampling/samplers").glob("[!_]*.py")}
    title, *lines = samplers.out.splitlines()
    assert title.startswith("samplers: ")
    assert {line.split()[0] for line in lines} == modules
    assert all(re.search(r"(19|20)\d\d|k-diffusion", line) for line in lines)
    configs = shells["list configs"].result()
    for name in config_files.names():
        for variant in config_files.variants(name):
            assert re.search(rf"^    {name}:{variant} +\S.*\S$", configs.out, re.MULTILINE), (name, variant)


def test_lists_and_help_start_without_jax():
    code = """
import sys
from jaxgen.cli import start
sys.argv[1:] = ["list"]
try:
    start.main("x")
finally:
    print(sorted(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1]
    assert "'ml_collections'" in modules
    for heavy in ("jax", "numpy", "flax", "tensorflow_datasets", "orbax"):
        assert f"'{heavy}'" not in modules


@pytest.mark.parametrize(("name", "sentence"), [
    ("help of nothing", "no command 'trian'; there are train, .* Did you mean train"),
    ("list of nothing", "no list of 'smplers'; there are configs, .* Did you mean samplers"),
    ("command", "no command 'trian'"),
    ("flag of another command", "train does not take --num_samples"),
    ("setting as a flag", r"--num_steps is a setting of the config: give it as --config\.train\.num_steps=VALUE"),
    ("letters in ASCII", r"--step is '\\xe4', but must be a whole number"),
])  # fmt: skip
def test_a_shell_sees_one_sentence(shells, name, sentence):
    refused(shells[name].result(), sentence)


def test_a_reader_that_goes_away_is_no_error(shells):
    outcome = shells["list into a closed pipe"].result()
    assert (outcome.code, outcome.out.count("\n"), outcome.err) == (0, 1, "")


def test_output_that_is_lost_is_an_error_and_one_that_is_not_wanted_is_none(shells):
    full = shells["list onto a full disk"].result()
    assert (full.code, full.err) == (1, "error: The output could not be written (No space left on device).\n")
    for name in ("list without a standard output", "list without streams"):
        assert shells[name].result() == (0, "", "")


def test_without_a_home_directory_paths_in_it_are_refused(shells):
    refused(
        shells["unknown user"].result(),
        r"--workdir is '~/x', but no home directory is known: set HOME, or give the path in full",
    )


CONFIGS = {
    "no such config": ("--config=ddpn", r"no config 'configs/ddpn\.py'; there are .* Did you mean ddpm\?"),
    "case": ("--config=configs/DDPN", r"no config 'configs/DDPN'.* Did you mean ddpm"),
    "no such variant": ("--config=ddpm:digit", "no variant 'digit'; this config has .* Did you mean digits"),
    "no variant": ("--config=ddpm:", "names no variant after the colon; ddpm has digits, tiny"),
    "nothing": ("--config=", "--config is empty: give a value, or leave the flag out"),
    "shared": ("--config=configs/common.py", "is no config, but what configs share"),
    "syntax": ("--config=broken.py", r"broken\.py is no valid Python \(line 1 of"),
    "null": ("--config=null.py", r"null\.py (is no valid Python|fails)"),
    "no function": ("--config=nothing.py", r"nothing\.py has no function get_config"),
    "no function but a number": ("--config=number.py", r"number\.py has no function get_config"),
    "exception": ("--config=raising.py", r"raising\.py fails in line 2: KeyError: 'a'"),
    "import": ("--config=importing.py", r"importing\.py fails in line 1: ModuleNotFoundError: No module named"),
    "another type": ("--config=mapping.py", r"get_config of mapping\.py returns dict, but must return a ConfigDict"),
    "no sections": ("--config=empty.py", "The config has no section data: start from common"),
    "no variants": ("--config=plain.py:tiny", r"get_config of plain\.py takes no variant: leave it out"),
    "needs a variant": ("--config=needy.py", r"get_config of needy\.py needs a variant"),
    "yaml": ("--config=config.yaml", r"'config\.yaml' is no Python file, but must be a file NAME\.py"),
    "json": ("--config=config.json", r"'config\.json' is no Python file.* give --workdir=DIR alone"),
    "text": ("--config=notes.txt", r"'notes\.txt' is no Python file"),
    "directory": ("--config=folder.py", r"'folder\.py' is a directory"),
    "directory without a suffix": ("--config=pictures/", "is a directory"),
    "file of the user by its name": (
        "--config=plain",
        r"no config 'configs/plain\.py'.* Did you mean plain\.py, the file",
    ),
    "home of nobody": ("--config=~nobody-at-all/x.py", "there is no user 'nobody-at-all'"),
    "name that no file has": (f"--config={'x' * 300}", "The config is 'x+', but a name in it is longer than 200 bytes"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_none_is_refused(name, home, monkeypatch):
    monkeypatch.chdir(home)
    config, sentence = CONFIGS[name]
    before = contents(home)
    refused(launch("train", config, f"--workdir={home}/run"), sentence)
    assert contents(home) == before


@pytest.mark.parametrize(
    "name", ["ddpm:tiny", "DDPM:tiny", "configs/ddpm:tiny", "configs/ddpm.py:tiny", "ddpm.py:tiny"]
)
def test_a_config_is_found_by_any_of_its_names(name, home, monkeypatch):
    monkeypatch.chdir(home)
    assert config_files.load_config_file(name).to_dict() == config_files.load_config_file("ddpm:tiny").to_dict()
    assert config_files.default_workdir(name) == Path("runs/ddpm-tiny")


def test_a_config_of_the_user_is_found_in_the_home_directory(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    assert config_files.load_config_file("~/plain.py").data.batch_size == 16
    assert config_files.load_config_file("~/plain").data.batch_size == 16


COMMAND_LINES = {
    "seed beyond 64 bits": (["sample", f"--seed={2**64}"], "--seed is 18446744073709551616, but must be at most 4,294"),
    "negative seed": (["sample", "--seed=-1"], "--seed is -1, but must be at least 0"),
    "no number": (["sample", "--num_samples="], "--num_samples is '', but must be a whole number"),
    "no choice": (["encode", "--dtype=int8"], "--dtype is 'int8', but must be one of float32, float16"),
    "no switch": (["checkpoints", "--verify=perhaps"], "--verify is 'perhaps', but must be True or False"),
    "no finite number": (["ema", "--sigma_rel=nan"], "--sigma_rel is nan, but must be a finite number"),
    "no path": (["train", "--workdir="], "--workdir is empty: give a value"),
    "no list": (["sample", "--labels="], "--labels is empty: give a value, or leave the flag out"),
    "name that no file has": (["sample", f"--output={'x' * 300}.npz"], "--output is .* is longer than 200 bytes"),
    "plan of no run": (["plan", "--devices=1", "--workdir=none"], r"none holds no run \(no config\.json\)"),
    "plan of two": (["plan", "--config=vae:tiny", "--workdir=none"], "--config or --workdir, .* leave one of them out"),
    "negative step": (["evaluate", "--step=-1"], "--step is -1, but must be at least 0"),
    "large number": (["sample", f"--num_samples={10**30}"], "but must be at most 2,147,483,647"),
    "devices of sample": (["sample", "--devices=2"], "sample does not take --devices, which is a flag of plan"),
    "no flag": (["train", "--wrokdir=x"], "train has no flag --wrokdir; it has --config, .* Did you mean workdir"),
    "path of a setting": (["train", "--train.num_steps=3"], r"give it as --config\.train\.num_steps=VALUE"),
    "a bare setting": (
        ["train", "--batch_size=3"],
        r"--config\.data\.batch_size=VALUE or --config\.sample\.batch_size=VALUE",
    ),
    "a setting of what takes none": (["list", "--config.seed=3"], r"list takes no settings of a config"),
    "a seed that is not of the samples": (
        ["sample", "--config.seed=3"],
        r"--config\.seed=3 has no effect on sample: leave it out, and give --seed for other random numbers",
    ),
    "a setting of training alone": (
        ["evaluate", "--config.train.num_steps=3"],
        r"--config\.train\.num_steps=3 has no effect on evaluate: leave it out\.$",
    ),
    "two words": (["list", "configs", "samplers"], "'samplers' is one word too many"),
    "home of nobody": (["sample", "--output=~nobody-at-all/x.npz"], "--output is .* there is no user 'nobody-at-all'"),
    "seed of the config": (
        ["train", TINY, f"--config.seed={2**64}"],
        r"seed is 18446744073709551616, but a seed must lie",
    ),
    "negative seed of the config": (["train", TINY, "--config.seed=-1"], "seed is -1, but a seed must lie in"),
    "no tuple": (
        ["train", "--config=ddpm:tiny", "--config.model.channel_multipliers=2"],
        r"channel_multipliers is '2', but must be of type tuple: give it as '\(2,\)|'2,'",
    ),
    "texts for a tuple": (
        ["train", "--config=ddpm:tiny", "--config.model.channel_multipliers=a,b"],
        r"of type tuple, such as 1,2 or, in quotes, '\(1, 2\)'",
    ),
    "home of nobody in the config": (
        ["train", TINY, "--config.data.data_dir=~nobody-at-all/x"],
        r"data\.data_dir is '~nobody-at-all/x', but there is no user",
    ),
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_command_line_that_is_wrong_is_refused(name, home, monkeypatch):
    monkeypatch.chdir(home)
    before = contents(home)
    arguments, sentence = COMMAND_LINES[name]
    outcome = launch(*arguments)
    refused(outcome, sentence)
    assert "None" not in outcome.err
    assert contents(home) == before


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in (*TOPICS, "train")])
def test_what_a_command_needs_is_named_and_never_none(name, home, monkeypatch):
    monkeypatch.chdir(home)
    flags = [] if name in ("import", "plan") else [f"--workdir={home}/none"]
    outcome = launch(name, *flags)
    refused(outcome, "needs --|holds no run")
    assert "None" not in outcome.err


def test_every_flag_is_of_a_command_that_reads_it():
    """Each command refuses the flags of all others by name."""
    for name, command in COMMANDS.items():
        for other, its in COMMANDS.items():
            for flag in set(its.flags) - set(command.flags):
                outcome = launch(name, f"--{flag}=1")
                assert outcome.code == 2
                if flag != "config":
                    assert f"{name} does not take --{flag}, which is a flag of " in outcome.err
                    assert other in outcome.err


def test_lists_are_given_as_the_shell_leaves_them():
    config = config_files.config("ddpm:tiny")
    for text in ("1,2", "(1,2)", "(1, 2)", "[1,2]", " 1,2"):
        config_files.override(config, "model.channel_multipliers", text)
        assert config.model.channel_multipliers == (1, 2)
    config_files.override(config, "model.channel_multipliers", "3,")
    assert config.model.channel_multipliers == (3,)


AWKWARD = "mein erster Läuf"


@pytest.fixture(scope="module")
def interrupted(home, tmp_path_factory):
    """The work directory of a run that was interrupted, and the command that it tells to give."""
    directory = tmp_path_factory.mktemp("it's here") / AWKWARD
    text = (
        f"exec {{launch}} train --config=plain.py --workdir={shlex.quote(str(directory))} {SHORT} "
        "--config.train.num_steps=40 --config.train.sample_every_steps=40 --config.train.keep_checkpoints=99"
    )
    command = text.format(launch=shlex.join([sys.executable, str(ROOT / "launch.py")]))
    with subprocess.Popen(
        ["bash", "-c", command], cwd=home, env=environment(), stdout=subprocess.PIPE, encoding="utf-8"
    ) as run:
        for line in run.stdout:
            if line.startswith("step "):
                run.terminate()
            if "To resume" in line:
                return directory, line.partition("again: ")[2].strip()
    raise AssertionError("It was not interrupted.")


def steps_of(directory):
    return [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_the_command_to_resume_by_can_be_pasted_and_training_goes_on_when_nobody_reads_its_output(interrupted, home):
    """With a place, a terminal and a user that have everything against them, and into a pipe that closes."""
    directory, command = interrupted
    before = steps_of(directory)
    assert 0 < before[-1] < 40
    saved = directory / "checkpoints" / str(before[-1])
    number = saved.stat().st_ino
    awkward = run_shell(
        "set -o pipefail; unset HOME XDG_CACHE_HOME JAX_COMPILATION_CACHE_DIR; TERM=dumb LC_ALL=C "
        f"PYTHONIOENCODING=ascii PYTHONPATH=unknown {command} <&- | head -1",
        home,
    )
    assert awkward.code == 0, awkward.err
    assert awkward.err == ""
    assert awkward.out.count("\n") == 1
    assert saved.stat().st_ino == number  # it was resumed from, and not made again
    assert steps_of(directory) == list(range(2, 41, 2))
    assert load_config(directory).train.num_steps == 40


def test_closing_words_fit_the_run(trained):
    """It has ten classes, and is of the digits."""
    *_, tries = trained.outcome.out.partition("Try next:\n")
    commands = [line.strip() for line in tries.splitlines()]
    assert commands[0].endswith(f"launch.py sample --workdir={trained.workdir} --num_samples=100 --labels=0,9")
    configs = [command.partition("--config=")[2] for command in commands if "--config=" in command]
    assert configs == ["gan:digits", "flow:digits", "vdvae:digits"]
    for name in configs:
        assert config_files.config(name).data.name == "digits"


def test_the_flags_of_several_processes_have_the_defaults_of_the_library():
    from jaxgen.parallel.hosts import Timeouts

    for name, seconds in Timeouts()._asdict().items():
        assert PROCESSES[f"{name}_timeout_seconds"].default == seconds

"""Flags, commands, and refusals: bad input becomes one sentence on standard error and exit code 2."""

import contextlib
import difflib
import errno
import importlib
import logging
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from jaxgen.parallel import backend, hosts, launchers
from jaxgen.runs import config_files
from jaxgen.runs.refusals import RefusedError, agreed

COMMANDS = ("train", "sample", "evaluate", "encode", "import", "ema", "checkpoints", "plan")
TOGETHER = ("train", "sample", "evaluate")
"""Commands that several processes can do as one."""

_ALIKE = ("config", "workdir", "init_from", "extend", "num_samples", "seed", "output", "step")
"""Flags that all processes of a run must be given alike."""

COMPUTING = ("train", "sample", "evaluate", "encode", "import", "ema")
"""Commands whose arrays come from programs of JAX, which a wrong compiler would spoil without a word."""

REFUSED = 2
FAILED = 1

_MODULES = {"import": "import_weights"}  # of commands whose names no module can have

flags.DEFINE_string("config", None, "train, import, plan: a file of configs/ or of yours, with an optional :variant.")
flags.DEFINE_string("workdir", None, "Directory of the run; by default, runs/<config>-<variant> for train.")
flags.DEFINE_string("init_from", None, "train: the directory of a run whose weights a new run starts from.")
flags.DEFINE_boolean("extend", False, "train: let a run go on for more steps whose schedules depend on their number.")
flags.DEFINE_integer(
    "num_samples", None, "sample: how many images to draw; encode: of training images, at most, a drawn subset."
)
flags.DEFINE_integer("seed", 0, "sample: image i is a function of this seed and of i.")
flags.DEFINE_string("output", None, "sample: the .npz to write; encode, ema: the directory to make.")
flags.DEFINE_list("labels", None, "sample: classes to draw in turn; by default all of them, balanced.")
flags.DEFINE_enum("dtype", "float32", ["float32", "float16"], "encode: the type that latents are stored in.")
flags.DEFINE_integer("step", None, "sample, evaluate, encode, ema: the checkpoint; by default the newest.")
flags.DEFINE_float("sigma_rel", None, "ema: width of the average, relative to the length of training; such as 0.12.")
flags.DEFINE_string("format", None, "import: whose weights they are; a file of jaxgen/interop/formats, such as edm.")
flags.DEFINE_string("weights", None, "import: the file; safetensors, a PyTorch checkpoint, or .npz.")
flags.DEFINE_string("entry", None, "import: which state dict of a checkpoint that holds several, such as ema.")
flags.DEFINE_integer("devices", None, "plan: for how many devices.")
flags.DEFINE_list("mesh", None, "plan: sizes of the axes of the mesh, such as data=-1,fsdp=8; by default the config's.")
flags.DEFINE_list("image_shape", None, "import, plan: height, width, channels; by default those of the config's data.")
flags.DEFINE_integer("num_classes", None, "import, plan: by default that of the config's data.")
flags.DEFINE_string("autoencoder", None, "import, of a model of latents: the run whose latents they are.")
flags.DEFINE_list("latent_shift", ["0"], "import: what is subtracted from latents; one number, or one a channel.")
flags.DEFINE_list("latent_scale", ["1"], "import: what they are then divided by, such as 5.489981 (1 / 0.18215).")
flags.DEFINE_boolean("verify", False, "checkpoints: read every byte, and fail if one has changed.")
flags.DEFINE_boolean("prune", False, "checkpoints: delete those that the run's settings would not keep.")
flags.DEFINE_boolean("dry_run", False, "checkpoints --prune: only say what would be deleted.")
flags.DEFINE_integer("keep_last", None, "checkpoints --prune: how many of the newest; by default the run's setting.")
flags.DEFINE_integer("keep_every", None, "checkpoints --prune: keep multiples of this step; 0 for none.")
flags.DEFINE_string("coordinator", None, "Of several processes, HOST:PORT of process 0; by default as launched.")
flags.DEFINE_integer("num_processes", None, "How many processes there are; by default as launched (docs/multihost).")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0; by default as launched.")
_TIMEOUTS = hosts.Timeouts()
flags.DEFINE_integer("initialization_timeout_seconds", _TIMEOUTS.initialization, "For all processes to come together.")
flags.DEFINE_integer("heartbeat_timeout_seconds", _TIMEOUTS.heartbeat, "After which a silent process counts as dead.")

FLAGS = flags.FLAGS
_program = _IN_A_CHECKOUT = "python launch.py"
_OVERRIDE = "--config."

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


class Refusal(SystemExit):
    """Ends the process because of bad input, with one sentence, or without one where process 0 has printed it."""

    def __init__(self, sentence: str | None) -> None:
        if sentence is not None:
            sentence = " ".join(sentence.split())
            if program() != _IN_A_CHECKOUT:
                sentence = re.sub(r"(python )?launch\.py", program(), sentence)
            print(f"error: {sentence}" + "." * (not sentence.endswith((".", "?"))), file=sys.stderr)
        super().__init__(REFUSED)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turns a `ValueError` of the code that checks the user's input into a refusal, without a traceback.

    If one of several processes refuses, all do; all of them must enter this context.
    """
    with _saying_refusals(), agreed():
        yield


@contextlib.contextmanager
def _saying_refusals() -> Iterator[None]:
    try:
        yield
    except RefusedError as refused:
        raise Refusal(_to_say(refused.sentences)) from refused


def program() -> str:
    """Returns the command that starts this program, such as `python launch.py`."""
    return _program


def set_program(name: str) -> None:
    """Sets the command that `program` returns and that replaces `launch.py` in refusals."""
    global _program
    _program = name


def parse(arguments: list[str]) -> list[str]:
    """Parses the command line into `FLAGS`; returns the other arguments: the program, the command, and overrides.

    `--config.a.b=value` is an override of a single setting, which `run` applies to the config.
    """
    overrides = [a for a in arguments if a.startswith(_OVERRIDE)]
    try:
        return FLAGS([a for a in arguments if a not in overrides]) + overrides
    except flags.Error as error:
        raise Refusal(str(error)) from error


def run(arguments: list[str], *, started: float) -> None:
    """Runs the command that the arguments name, after `parse`."""
    logging.getLogger().setLevel(logging.WARNING)  # absl lets everybody speak
    # Through it Orbax and TFDS tell each of their steps, and what reaches us as an exception anyway.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    words = [a for a in arguments[1:] if not a.startswith(_OVERRIDE)]
    command = words[0] if words else "train"
    with refusals():
        _join(command, arguments)
    try:
        with hosts.ending_at_once():
            code = _run(command, words[1:], arguments, started=started)
            hosts.gather("")  # nobody leaves before process 0 has written everything
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = 128 + signal.SIGINT
    sys.exit(code)


def _run(command: str, more: list[str], arguments: list[str], *, started: float) -> int:
    with refusals():
        if command not in COMMANDS:
            close = difflib.get_close_matches(command, COMMANDS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"There is no command {command!r}; there are {', '.join(COMMANDS)}.{hint}")
        if more:
            raise ValueError(f"{more[0]!r} is one word too many: settings are given as --name=value.")
        config = _config(command)
        for override in [a for a in arguments if a.startswith(_OVERRIDE)]:
            if config is None:
                raise ValueError(f"{command} takes {override} only together with --config=FILE, which it applies to.")
            name, _, value = override.removeprefix(_OVERRIDE).partition("=")
            config_files.override(config, name, value)
        if command == "train" and FLAGS.init_from is not None:
            assert config is not None
            config_files.override(config, "train.init_from", FLAGS.init_from)
        if command in COMPUTING:
            backend.check_backend()
    module = importlib.import_module(f"jaxgen.cli.{_MODULES.get(command, command)}")
    from jaxgen.data.faults import DataFaultError
    from jaxgen.parallel.sampling import NonfiniteImagesError

    if command != "train":  # which has handlers of its own, in `durability/interruption.py`
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what is unfinished is removed
    try:
        with _full_disks(), _saying_refusals():
            return module.main(None if config is None else config_files.read_only(config), FLAGS, started=started)
    except (DataFaultError, NonfiniteImagesError) as error:
        raise Refusal(str(error)) from error


@contextlib.contextmanager
def _full_disks() -> Iterator[None]:
    """Turns the error of a file that could not be written into a sentence, where the command has not done so."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda error: _is_late(error.exc_value) or before(error)
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(f"error: {error.filename or 'A file'} could not be written ({error.strerror}).", file=sys.stderr)
        sys.exit(FAILED)
    finally:
        sys.unraisablehook = before


def _is_late(error: BaseException | None) -> bool:
    """Returns whether an error is of a write of Orbax's that ended after another one of the same save had failed."""
    return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)


def _join(command: str, arguments: list[str]) -> None:
    """Connects this process to the others of the run, if there are any."""
    timeouts = hosts.Timeouts(FLAGS.initialization_timeout_seconds, FLAGS.heartbeat_timeout_seconds)
    for name, seconds in timeouts._asdict().items():
        if seconds < 1:
            raise ValueError(f"--{name}_timeout_seconds is {seconds}, but must be at least 1.")
    place = launchers.find(
        FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id, timeout_seconds=timeouts.initialization
    )
    if place is None:
        return
    if command in COMMANDS and command not in TOGETHER:
        raise ValueError(f"{command} is done by one process, but {place.num_processes} were started: start one.")
    hosts.start(place, timeouts, stoppable=command == "train")
    mine = " ".join(a for a in arguments[1:] if a.startswith(_OVERRIDE) or not a.startswith("-"))
    flags_here = {name: FLAGS[name].value for name in _ALIKE}
    hosts.check_same(f"{mine} {flags_here}", "This process was started with other arguments than process 0.")


def _to_say(sentences: dict[int, str]) -> str | None:
    """Returns the sentence for this process to print: process 0 prints a reason, others print theirs if it differs."""
    me, first = hosts.process_id(), min(sentences)
    if me == 0:
        return sentences[first] if first == 0 else f"process {first}: {sentences[first]}"
    return f"process {me}: {sentences[me]}" if sentences.get(me) not in (None, sentences.get(0)) else None


def _config(command: str) -> ConfigDict | None:
    """Returns the config that the command works on; None if `import` is to find one that fits the weights."""
    if command == "import":
        return config_files.load_config_file(FLAGS.config) if FLAGS.config else None
    goes_on = FLAGS.config is None and FLAGS.workdir is not None and (Path(FLAGS.workdir) / "config.json").exists()
    if command in ("train", "plan") and not goes_on:
        return config_files.load_config_file(FLAGS.config or config_files.DEFAULT)
    return _config_of_run(command)


def _config_of_run(command: str) -> ConfigDict:
    """Returns the config of the run in --workdir, which the commands other than train use instead of a file."""
    from jaxgen.training.workdir import load_config

    if FLAGS.workdir is None:
        raise ValueError(f"{command} needs --workdir=DIR, the directory of a trained run.")
    if FLAGS.config is not None:
        raise ValueError(f"{command} takes its config from the run in --workdir; override single settings of it only.")
    return config_files.editable(load_config(Path(FLAGS.workdir)))


def image_shape(given: Any) -> tuple[int, int, int] | None:
    """Returns the shape in --image_shape, or None where it is not given.

    Raises:
      ValueError: if it is not three whole numbers.
    """
    shape = given.image_shape
    if shape is None:
        return None
    if len(shape) != 3 or not all(side.isdecimal() and int(side) for side in shape):
        raise ValueError(f"--image_shape is {','.join(shape)}, but must be height, width and channels such as 32,32,3.")
    height, width, channels = map(int, shape)
    return height, width, channels

"""The running of a command, and refusals: bad input becomes one sentence on standard error and exit code 2."""

import contextlib
import errno
import gc
import importlib
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ml_collections import ConfigDict

from jaxgen.cli.command_line import CommandLine
from jaxgen.cli.commands import COMMANDS, PROCESSES
from jaxgen.cli.program import FAILED, Refusal
from jaxgen.parallel import backend, hosts, launchers
from jaxgen.runs import config_files
from jaxgen.runs.refusals import RefusedError, agreed

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_UNUSABLE = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""Errors of paths that the user has given, which no check of the commands has found before."""


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


def run(line: CommandLine, *, started: float) -> NoReturn:
    """Runs a command line, and ends the process."""
    logging.getLogger().setLevel(logging.WARNING)
    # Through it Orbax and TFDS tell each of their steps, and what reaches us as an exception anyway.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with refusals():
        _join(line)
    try:
        with hosts.ending_at_once(), _paths_that_cannot_be_used():
            code = _run(line, started=started)
            hosts.gather("")  # nobody leaves before process 0 has written everything
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = 128 + signal.SIGINT
    sys.exit(code)


def _run(line: CommandLine, *, started: float) -> int:
    command = COMMANDS[line.command]
    with refusals():
        config = _config(line)
        for name, text in line.settings:
            if config is None:
                setting = f"--config.{name}={text}"
                raise ValueError(
                    f"{line.command} takes {setting} only together with --config=FILE, which it applies to."
                )
            config_files.override(config, name, text)
        if line.given("init_from") is not None:
            assert config is not None
            config_files.override(config, "train.init_from", line.flags.init_from)
        if command.computes:
            backend.check_backend()
    module = importlib.import_module(f"jaxgen.cli.{command.module}")
    from jaxgen.data.faults import DataFaultError
    from jaxgen.parallel.sampling import NonfiniteImagesError

    gc.freeze()  # what is imported stays
    gc.enable()
    if line.command != "train":  # which has handlers of its own, in `durability/interruption.py`
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what is unfinished is removed
    try:
        with _full_disks(), _saying_refusals():
            return module.main(None if config is None else config_files.read_only(config), line.flags, started=started)
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


@contextlib.contextmanager
def _paths_that_cannot_be_used() -> Iterator[None]:
    """Turns the error of a path without permission, or of a name that no file has, into a refusal."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNUSABLE or error.filename is None:
            raise
        raise Refusal(f"{error.filename} cannot be used ({error.strerror}).") from error


def _is_late(error: BaseException | None) -> bool:
    """Returns whether an error is of a write of Orbax's that ended after another one of the same save had failed."""
    return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)


def _join(line: CommandLine) -> None:
    """Connects this process to the others of the run, if there are any."""
    together = COMMANDS[line.command].together
    timeouts = hosts.Timeouts()
    if together:
        timeouts = hosts.Timeouts(line.flags.initialization_timeout_seconds, line.flags.heartbeat_timeout_seconds)
    coordinator, count, number = (line.given(name) for name in ("coordinator", "num_processes", "process_id"))
    place = launchers.find(coordinator, count, number, timeout_seconds=timeouts.initialization)
    if place is None:
        return
    if not together:
        raise ValueError(f"{line.command} is done by one process, but {place.num_processes} were started: start one.")
    hosts.start(place, timeouts, stoppable=line.command == "train")
    alike = {name: line.flags[name].value for name in line.flags if name not in PROCESSES}
    hosts.check_same(
        f"{line.command} {line.settings} {alike}", "This process was started with other arguments than process 0."
    )


def _to_say(sentences: dict[int, str]) -> str | None:
    """Returns the sentence for this process to print: process 0 prints a reason, others print theirs if it differs."""
    me, first = hosts.process_id(), min(sentences)
    if me == 0:
        return sentences[first] if first == 0 else f"process {first}: {sentences[first]}"
    return f"process {me}: {sentences[me]}" if sentences.get(me) not in (None, sentences.get(0)) else None


def _config(line: CommandLine) -> ConfigDict | None:
    """Returns the config that the command works on; None if `import` is to find one that fits the weights."""
    named, workdir = line.given("config"), line.given("workdir")
    if line.command == "import":
        return config_files.load_config_file(line.flags.config) if named else None
    if line.command == "plan" and workdir is not None:  # which needs a run there, where train makes one
        if named is not None:
            raise ValueError("plan takes --config or --workdir, the run whose config it is: leave one of them out.")
        return _config_of_run(line)
    goes_on = named is None and workdir is not None and (Path(line.flags.workdir) / "config.json").exists()
    if "config" in line.flags and not goes_on:
        return config_files.load_config_file(line.flags.config or config_files.DEFAULT)
    return _config_of_run(line)


def _config_of_run(line: CommandLine) -> ConfigDict:
    """Returns the config of the run in --workdir, which the commands other than train use instead of a file."""
    from jaxgen.training.workdir import load_config

    if line.flags.workdir is None:
        raise ValueError(f"{line.command} needs --workdir=DIR, the directory of a trained run.")
    return config_files.editable(load_config(Path(line.flags.workdir)))


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

"""Parsing of the command line: the command, its flags, and settings of the config; the rest is refused by name."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from absl import flags

from jaxgen.cli.commands import COMMANDS, TOPICS, Command, registered
from jaxgen.core import paths
from jaxgen.core.config import did_you_mean

_OVERRIDE = "config."
_HELP = ("help", "h", "?", "helpshort", "helpfull")
_FAULTY_VALUE = re.compile(r"flag --(?P<name>\w+)=(?P<value>.*?): ", re.DOTALL)


class CommandLine(NamedTuple):
    """A command line.

    Attributes:
      command: its name.
      flags: their values as attributes; those of the command only.
      settings: name and text of each setting of the config, in the order given.
      word: the word after `list` or `help`; empty if there is none.
    """

    command: str
    flags: flags.FlagValues
    settings: tuple[tuple[str, str], ...] = ()
    word: str = ""

    def given(self, name: str) -> Any:
        """Returns the value of a flag; None for one that the command does not have, too."""
        return self.flags[name].value if name in self.flags else None


def parse(arguments: Sequence[str]) -> CommandLine:
    """Parses the words after the name of the program.

    Raises:
      ValueError: if the command, a flag or a value of a flag does not exist.
    """
    ours = [argument for argument in arguments if _name(argument).startswith(_OVERRIDE)]
    others = [argument for argument in arguments if argument not in ours]
    words = _words(others)
    name = words[0] if words else next(iter(COMMANDS))
    if any(_name(argument) in _HELP for argument in others):
        return CommandLine("help", flags.FlagValues(), word=name if words and name != "help" else "".join(words[1:2]))
    if name not in COMMANDS:
        raise ValueError(
            f"There is no command {name!r}; there are {', '.join(COMMANDS)}.{did_you_mean(name, COMMANDS)}"
        )
    command = COMMANDS[name]
    if len(words) > 1 + (name in TOPICS):
        extra = words[1 + (name in TOPICS)]
        raise ValueError(f"{extra!r} is one word too many: settings are given as --name=value.")
    if ours and not command.takes_settings:
        raise ValueError(f"{name} takes no settings of a config: leave {ours[0]} out.")
    for argument in ours:
        _check_effect(name, command, argument)
    return CommandLine(name, _flags(name, command, others), tuple(map(_setting, ours)), "".join(words[1:2]))


def _name(argument: str) -> str:
    """Returns the name of a flag, or of a setting; empty for a word."""
    return re.sub("^--?", "", argument).partition("=")[0] if argument.startswith("-") else ""


def _words(arguments: Iterable[str]) -> list[str]:
    """Returns what is no flag and no value of one, which may stand behind it (`--workdir DIR`)."""
    takes_value = {name for command in COMMANDS.values() for name, flag in command.flags.items() if flag.value}
    words, is_value = [], False
    for argument in arguments:
        if not argument.startswith("-") and not is_value:
            words.append(argument)
        is_value = "=" not in argument and _name(argument) in takes_value and not is_value
    return words


def _check_effect(name: str, command: Command, argument: str) -> None:
    """Raises a ValueError if the command does not depend on the setting that an argument changes."""
    setting = _name(argument).removeprefix(_OVERRIDE)
    if command.ignores is None or not re.fullmatch(command.ignores, setting):
        return
    its_own = ", and give --seed for other random numbers" if setting == "seed" and "seed" in command.flags else ""
    raise ValueError(f"{argument} has no effect on {name}: leave it out{its_own}.")


def _setting(argument: str) -> tuple[str, str]:
    name, equals, text = re.sub("^--?", "", argument).removeprefix(_OVERRIDE).partition("=")
    if not equals:
        raise ValueError(f"--config.{name} has no value: give it as --config.{name}=VALUE.")
    return name, text


def _flags(name: str, command: Command, arguments: list[str]) -> flags.FlagValues:
    """Returns the values of a command's flags.

    Raises:
      ValueError: if it has no such flag, or a value is none of the flag's.
    """
    values = registered(command)
    try:
        values(["", *arguments])
    except flags.UnrecognizedFlagError as error:
        raise ValueError(_unknown(name, command, error.flagname)) from error
    except flags.Error as error:
        found = _FAULTY_VALUE.match(str(error))
        if found is None or found["name"] not in command.flags:
            raise ValueError(str(error)) from error
        flag = command.flags[found["name"]]
        raise ValueError(f"--{found['name']} is {found['value']!r}, but must be {flag.must_be}.") from error
    for flag_name, flag in command.flags.items():
        value = values[flag_name].value
        if flag.bounds is not None and value is not None and not flag.bounds[0] <= value <= flag.bounds[1]:
            low, high = flag.bounds
            allowed = f"be at least {low}" if value < low else f"be at most {high:,}"
            raise ValueError(f"--{flag_name} is {value}, but must {allowed}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{flag_name} is {value}, but must be a finite number.")
        if value in ("", []):
            raise ValueError(f"--{flag_name} is empty: give a value, or leave the flag out.")
        if flag.is_path and value is not None:
            values[flag_name].value = str(paths.expanded(value, where=f"--{flag_name}"))
    return values


def _unknown(name: str, command: Command, flag: str) -> str:
    """Returns the refusal of a flag that a command does not have."""
    if flag == "config" and "workdir" in command.flags:
        return (
            f"{name} takes its config from the run in --workdir; override single settings of it only, such as "
            "--config.sample.batch_size=64."
        )
    takers = [other for other, its in COMMANDS.items() if flag in its.flags]
    if takers:
        return f"{name} does not take --{flag}, which is a flag of {' and '.join(takers)}: leave it out."
    settings = _settings_named(flag) if command.takes_settings else []
    if settings:
        ways = " or ".join(f"--config.{path}=VALUE" for path in settings)
        return f"--{flag} is a setting of the config: give it as {ways}."
    has = f"it has {', '.join(f'--{other}' for other in command.flags)}" if command.flags else "it has none"
    return f"{name} has no flag --{flag}; {has}.{did_you_mean(flag, command.flags)}"


def _settings_named(flag: str) -> list[str]:
    """Returns the paths of the settings that all configs share which a name may be meant for."""
    from jaxgen.runs import config_files

    known = config_files.shared_settings()
    return [path for path in known if path == flag or path.rpartition(".")[2] == flag][:3]

"""`launch.py help`: the commands, or the flags of one of them, with an example."""

import textwrap
from collections.abc import Iterable, Mapping

from jaxgen.cli.commands import COMMANDS, PROCESSES, Command, Flag
from jaxgen.cli.program import program
from jaxgen.core.config import did_you_mean

_WIDTH = 100


def text(name: str = "") -> str:
    """Returns the help of a command, or that of the program if none is named.

    Raises:
      ValueError: if there is no such command.
    """
    if not name:
        return _of_program()
    if name not in COMMANDS:
        raise ValueError(
            f"There is no command {name!r}; there are {', '.join(COMMANDS)}.{did_you_mean(name, COMMANDS)}"
        )
    return _of_command(name, COMMANDS[name])


def _of_program() -> str:
    default = next(iter(COMMANDS))
    rows = [
        (name, command.summary + (" The default." if name == default else "")) for name, command in COMMANDS.items()
    ]
    return "\n".join(
        [
            f"{program()}: Trains, samples and evaluates generative models.",
            "",
            f"  {program()} [COMMAND] [--FLAG=VALUE ...] [--config.SETTING=VALUE ...]",
            "",
            "Commands:",
            *table(rows),
            "",
            f"The flags of a command: {program()} help COMMAND",
            f"What there is to choose from: {program()} list",
            f"The first run, minutes on a CPU: {program()}",
        ]
    )


def _of_command(name: str, command: Command) -> str:
    own = {flag: about for flag, about in command.flags.items() if flag not in PROCESSES}
    lines = [f"{program()} {name}: {command.summary}", ""]
    if own:
        lines += ["Flags:", *table(_rows(own)), ""]
    if command.together:
        lines += ["Flags of one of several processes:", *table(_rows(PROCESSES)), ""]
    if command.takes_settings:
        lines += [
            "Settings:",
            *table([("--config.NAME=VALUE", "Any setting of the config, such as --config.data.batch_size=64.")]),
            "",
        ]
    return "\n".join([*lines, "Example:", f"  {program()} {name} {command.example}"])


def _rows(flags: Mapping[str, Flag]) -> list[tuple[str, str]]:
    return [(f"--{name}" + (f"={flag.value}" if flag.value else ""), _about(flag)) for name, flag in flags.items()]


def _about(flag: Flag) -> str:
    shown = flag.default not in (None, False)
    return f"{flag.help} Default: {flag.default}." if shown else flag.help


def table(rows: Iterable[tuple[str, str]], *, indent: int = 2, most: int = 24) -> list[str]:
    """Returns lines of two columns: a name, and text that is wrapped beside it, or below a name that is long."""
    rows = list(rows)
    width = min(max((len(name) for name, _ in rows), default=0), most)
    lines = []
    for name, about in rows:
        wrapped = textwrap.wrap(about, _WIDTH - width - indent - 2) or [""]
        margin = " " * (indent + width + 2)
        beside = wrapped if len(name) <= width else ["", *wrapped]
        first = f"{' ' * indent}{name.ljust(width)}  {beside[0]}"
        lines += [first.rstrip(), *(f"{margin}{line}" for line in beside[1:])]
    return lines

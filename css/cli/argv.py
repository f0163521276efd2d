"""Commands and their help: argparse, but that a mistake is one line and names what was probably meant. Ends nothing."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Mapping
from typing import NoReturn

import msgspec

from css.errors import ConfigError


class Command(msgspec.Struct, frozen=True):
    """One command. `perform` gets the parsed arguments and returns the exit status."""

    summary: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    perform: Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parse(name: str, command: Command, argv: list[str]) -> argparse.Namespace:
    """The arguments of a command. Raises `ConfigError`, and `SystemExit` after its help was printed."""
    parser = _Parser(
        prog=f"css {name}",
        description=command.summary,
        epilog=f"example:\n  {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.arguments(parser)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        known = [option for action in parser._actions for option in action.option_strings]
        close = difflib.get_close_matches(flag, known, n=1)
        advice = f"did you mean {close[0]}?" if close else f"see css {name} --help"
        raise ConfigError(f"css {name}: unknown argument {flag}; {advice}")
    return args


def overview(commands: Mapping[str, Command]) -> str:
    """The help of all commands."""
    lines = [f"  {name:<14}{command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            "css: see and follow Amazon ECS; a live copy of every cluster, over HTTP and websocket\n",
            "usage: css COMMAND [options]\n",
            *lines,
            f"  {'tui':<14}watch a service in the terminal",
            "\nWithout a command the options of run are taken, as the Go service did.",
            "\nexample:\n  css demo                          no AWS account is needed",
            "  css run --queue event_stream      the clusters of this account and region",
            "\nhelp of a command: css COMMAND --help; version: css --version",
        ]
    )

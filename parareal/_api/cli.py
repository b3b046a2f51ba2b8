"""The command `parareal`. Adapters add subcommands by entry points of the group `parareal.commands`."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from typing import Protocol


class Command(Protocol):
    """The function that an entry point names: it adds arguments to a parser and returns the function to run."""

    def __call__(self, parser: argparse.ArgumentParser) -> "CommandBody":
        """Add the subcommand's arguments to its parser."""
        ...


class CommandBody(Protocol):
    """The function that runs a subcommand."""

    def __call__(self, options: argparse.Namespace) -> int:
        """Run the subcommand and return its exit status."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `parareal COMMAND` and return the exit status.

    Args:
        arguments: the command line without the program's name; None for that of the process.
    """
    parser = argparse.ArgumentParser(prog="parareal", description="Solve any ODE in parallel in time.")
    parser.add_argument("--version", action="version", version=version("parareal-torch"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for entry in sorted(entry_points(group="parareal.commands"), key=lambda e: e.name):
        try:
            command: Command = entry.load()
        except ImportError as error:
            # Without its adapter's packages a subcommand is still listed, so that `--help` tells the user it exists.
            commands.add_parser(entry.name, help=f"not available: {error}")
            continue
        child = commands.add_parser(
            entry.name,
            help=(command.__doc__ or "").splitlines()[0],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        child.set_defaults(run=command(child))
    # The stub parser of an unavailable subcommand knows no options. Parsing only the known ones lets the message below
    # name the missing packages before any complaint about an unknown option.
    options, rest = parser.parse_known_args(arguments)
    if not hasattr(options, "run"):
        parser.error(
            f"{options.command} needs packages that are not installed: pip install 'parareal-torch[diffusers,plot]'"
        )
    if rest:
        parser.error(f"{options.command} has no option {rest[0]}: see parareal {options.command} --help")
    try:
        return options.run(options)
    except (ValueError, OSError, ImportError) as error:
        # errors of the user's input or system: one line is more useful than a traceback
        print(f"parareal {options.command}: {error}", file=sys.stderr)
        return 2

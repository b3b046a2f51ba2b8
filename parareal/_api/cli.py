"""The command `parareal`; adapters bring its subcommands along as entry points of the group `parareal.commands`."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from typing import Protocol


class Command(Protocol):
    """What an entry point names: a function that adds its arguments to a parser and returns what to run."""

    def __call__(self, parser: argparse.ArgumentParser) -> "Run":
        """Add arguments."""
        ...


class Run(Protocol):
    """Runs a subcommand."""

    def __call__(self, options: argparse.Namespace) -> int:
        """Return the exit status."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `parareal COMMAND`."""
    parser = argparse.ArgumentParser(prog="parareal", description="Solve any ODE in parallel in time.")
    parser.add_argument("--version", action="version", version=version("parareal-torch"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for entry in sorted(entry_points(group="parareal.commands"), key=lambda e: e.name):
        try:
            command: Command = entry.load()
        except ImportError as error:
            commands.add_parser(entry.name, help=f"not available: {error}")
            continue
        child = commands.add_parser(
            entry.name,
            help=(command.__doc__ or "").splitlines()[0],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        child.set_defaults(run=command(child))
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
        print(f"parareal {options.command}: {error}", file=sys.stderr)
        return 2

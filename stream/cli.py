"""The command line: one verb, one file in `commands/`, imported when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from .ports import ShoalError
from .wiring import one_thread

VERBS = {
    "run": "the long-running engine; Kafka, or files (--input FILE --output DIR) with no broker",
    "demo": "the main job on simulated events, in one process, with progress on screen",
    "simulate": "behaviour events with known truth; to a file, stdout or Kafka",
    "produce": "a file of events into Kafka, at a rate or at a speed-up of its own clock",
    "validate": "events checked against the contract; one line per problem; exit code",
    "verify": "replays manifests against the log and compares every hash; says the first difference",
    "bench": "speed against named peers in one run, as a table and JSON",
    "doctor": "configuration, broker, topics, permissions, versions: what is wrong and what to do",
}


class Verbs(click.Group):
    """Loads a verb's module when the verb is called, so that `shoal --help` needs no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f".commands.{name}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="shoal")
def shoal() -> None:
    """Streaming incremental clustering: groups users by what they do, while they do it."""


def main(arguments: list[str] | None = None) -> Any:
    """Entry point. A ShoalError ends the process with its message and its own exit code."""
    one_thread()
    try:
        return shoal(arguments, prog_name="shoal")
    except ShoalError as error:
        click.echo(f"shoal: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()

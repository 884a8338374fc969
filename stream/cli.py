"""The command line: one verb, one file in `commands/`, imported when it is called."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from .ports import DiskFailed, ShoalError
from .wiring import one_thread

VERBS = {
    "run": "the long-running engine; Kafka, or files (--input FILE --output DIR) with no broker",
    "demo": "the main job on simulated events, in one process, with progress on screen",
    "simulate": "behaviour events with known truth; to a file, stdout or Kafka",
    "produce": "a file of events into Kafka, at a rate or at a speed-up of its own clock",
    "validate": "events checked against the contract; one line per problem; exit code",
    "verify": "replays manifests against the log, compares every hash and record; says the first difference",
    "replay": "rebuilds the state of the past: --until STEP or TIME",
    "subscribe": "segment changes as they come, from Kafka or from files; who is where at the end",
    "schemas": "the JSON Schemas and the AsyncAPI document of all topics",
    "inspect": "user ID | segments | segment ID | lineage | features: what the engine knows, and why",
    "control": "a command for the engine: erase a user, consent, merge, pin, rename, freeze",
    "eval": "quality against truth and against named peers, as a table and JSON",
    "bench": "speed against named peers in one run, as a table and JSON",
    "pseudonym": "the key under which a user is published, for the operator who has the secret key",
    "doctor": "configuration, broker, topics, permissions, versions: what is wrong and what to do",
}
_FRAMES = 6  # of a fault, shown


class Verbs(click.Group):
    """Loads a verb's module when the verb is called, so that `shoal --help` needs no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            near = difflib.get_close_matches(name, VERBS, n=1)
            ctx.fail(
                f"no verb {name!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(VERBS)}")
            )
        module = importlib.import_module(f".commands.{name}", __package__)
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # before click sees it, which would call it a failure
            _leave_pipe()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="shoal")
def shoal() -> None:
    """Streaming incremental clustering: groups users by what they do, while they do it."""


def main(arguments: list[str] | None = None) -> Any:
    """Entry point. Every failure ends the process with one message and its own exit code, never a traceback."""
    one_thread()
    try:
        code = shoal(arguments, prog_name="shoal", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("shoal: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        _leave_pipe()
    except ShoalError as error:
        click.echo(f"shoal: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"shoal: {error} ({place(error)}); is the disk full, or a file not accessible?", err=True)
        sys.exit(DiskFailed.exit_code)
    except Exception as error:  # ours: the last line of defence, outside every loop
        click.echo(f"shoal: {fault(error)}", err=True)
        sys.exit(1)


def _leave_pipe() -> NoReturn:
    """The reader of our output has left (`| head`): that is an end, not an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not fail
    sys.exit(0)


def fault(error: BaseException) -> str:
    """An unexpected error in one line: enough to report. A key that was looked up may be a user id: left out."""
    text = "" if isinstance(error, LookupError) else " ".join(str(error).split())[:200]
    return (
        f"a fault of Shoal's own: {type(error).__name__}: {text} ({place(error)}). What was committed is safe; "
        f"start again, and report this line if it repeats"
    )


def place(error: BaseException) -> str:
    """Where it was raised, and who called, innermost first."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return "at " + " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))


if __name__ == "__main__":
    main()

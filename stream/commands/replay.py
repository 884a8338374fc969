"""shoal replay: the state of the past, rebuilt from the input log and the manifests."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from ..events import Manifest
from .options import as_json, configuration, configured, log_to_stderr

if TYPE_CHECKING:
    from ..auditing.past import Past


@click.command(short_help="the state of the past: every step until then computed again")
@configured
@click.option("--input", "input_path", help="The file the run read. Leave out for Kafka.")
@click.option("--output", help="The folder the run wrote.")
@click.option("--control", help="The file of commands the run read, if it did.")
@click.option("--until", required=True, metavar="STEP|TIME", help="The last step; or a time, see above.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="A new folder, where that state is kept as a snapshot.",
)
@as_json
def command(
    config_path: Path | None,
    overrides: tuple[str, ...],
    input_path: str | None,
    output: str | None,
    control: str | None,
    until: str,
    state: Path | None,
    as_json: bool,
) -> None:
    """Rebuild the state after a recorded step, and show it. The run may go on meanwhile.

    --until is a step, or a stream time (2026-01-31T12:00:00Z, or milliseconds since 1970): then it is the last
    step whose watermark is not past it. It starts from the newest snapshot in engine.state_dir that is not past
    that step. Give the same --config and --set as the run. Exit code 0: rebuilt, every hash the same. 6: a
    step computed again differs. 7: another configuration made that step. 5: what would be needed is gone.
    """
    from ..auditing.access import progress, reading
    from ..auditing.past import Past, find, parse_until
    from ..wiring import build_pipeline

    log_to_stderr()
    step, time_ms = parse_until(until)
    config = configuration(config_path, overrides)
    ports = reading(config, input_path, output, control)
    with closing(ports[0]), closing(ports[1]), progress("replayed") as told:
        manifest = find(ports[1], step, time_ms)
        past = Past(config, build_pipeline(config), ports, told)
        past.go_to(manifest)
    if state is not None:
        past.keep(state)
    body = _facts(past, manifest)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        _show(past, body)
        if state is not None:
            click.echo(f"\nThe state lies in {state}")


def _facts(past: Past, manifest: Manifest) -> dict[str, Any]:
    from ..watching.summary import summarise, to_json

    return {
        "step": past.steps,
        "epoch": manifest.epoch,
        "opening": manifest.opening,
        "closing": manifest.closing,
        "now_ms": past.pipeline.clock.now_ms,
        "watermark_ms": manifest.watermark_ms,
        "positions": {str(p): offset for p, offset in sorted(past.positions.items())},
        "versions": dict(manifest.versions),
        "config_hash": manifest.config_hash,
        "state_hash": manifest.state_hash,
        "manifest_hash": past.pipeline.chain.manifest_hash,
        "replayed": past.replayed,
        **to_json(summarise(past.pipeline, past.counts)),
    }


def _show(past: Past, body: dict[str, Any]) -> None:
    from ..auditing.past import moment
    from ..watching.summary import render_text, summarise

    positions = ", ".join(f"{p}: {offset:,}" for p, offset in body["positions"].items()) or "none"
    versions = ", ".join(f"{name} {version}" for name, version in body["versions"].items())
    click.echo(
        f"Step {body['step']:,} of epoch {body['epoch']}; {body['replayed']:,} steps computed again, every hash the "
        f"same\n"
        f"stream time       {moment(body['now_ms'])}, watermark {moment(body['watermark_ms'])}\n"
        f"input read until  {positions} (partition: next offset)\n"
        f"versions          {versions}\n"
        f"state hash        {body['state_hash']}\n"
    )
    click.echo(render_text(summarise(past.pipeline, past.counts)))

"""shoal verify: anybody can check a run, finished or going on, from its input log and its manifests."""

from __future__ import annotations

import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import click
import orjson

from ..events import MANIFEST
from ..ports import ConfigError
from .options import as_json, configuration, configured, log_to_stderr


@click.command(short_help="recompute a run and compare every hash and every record")
@configured
@click.option("--input", "input_path", help="The file the run read. Leave out for Kafka.")
@click.option("--output", help="The folder the run wrote.")
@click.option("--control", help="The file of commands the run read, if it did.")
@click.option("--from-scratch", is_flag=True, help="Start from the beginning, and from no snapshot.")
@as_json
def command(
    config_path: Path | None,
    overrides: tuple[str, ...],
    input_path: str | None,
    output: str | None,
    control: str | None,
    from_scratch: bool,
    as_json: bool,
) -> None:
    """Recompute recorded steps and compare them with what was recorded and published; a run may go on meanwhile.

    It starts from the oldest snapshot in engine.state_dir, or from the beginning where there is none, and
    compares each snapshot that it meets with the state of then. Give the same --config and --set as the run.
    Exit code 0: the same bytes. 6: something differs, and the first difference is named. 7: it was recorded
    with another configuration. 5: what would be needed is no longer there.
    """
    from ..auditing.access import KAFKA_PATIENCE_S, progress, reading
    from ..auditing.verification import Verification
    from ..wiring import build_pipeline

    log_to_stderr()
    config = configuration(config_path, overrides)
    ports = reading(config, input_path, output, control)
    patience_s = 0.0 if output else KAFKA_PATIENCE_S
    with closing(ports[0]), closing(ports[1]), progress("verified") as told:
        run = Verification(config, ports, partial(build_pipeline, config), from_scratch, patience_s, told)
        report = run.run()
    if not report.last_step:
        where = output or f"{config.kafka.topic_prefix}{MANIFEST}"
        raise ConfigError(
            f"{where}: holds no recorded step, so nothing can be compared; is it what the run wrote?"
        )
    if as_json:
        body = report.as_dict()
        sys.stdout.buffer.write(orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        click.echo(report.text())

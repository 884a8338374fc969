"""shoal doctor: what is wrong before `shoal run` finds out, and what to do about it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec
import orjson

from ..checkup import Finding, Status, fail, ok, packages, python, settings, unit
from ..config import keys
from ..ports import ConfigError
from ..privacy.checkup import user_key
from .options import as_json, configuration, configured

_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}


@click.command(short_help="what is wrong, and what to do")
@configured
@click.option("--keys", "list_keys", is_flag=True, help="List every configuration key, and nothing else.")
@as_json
def command(config_path: Path | None, overrides: tuple[str, ...], list_keys: bool, as_json: bool) -> None:
    """Check versions, configuration, broker, topics, permissions and limits. Changes nothing.

    Exit code 0: `shoal run` can start (warnings aside). 1: something is wrong, and the report says what to do.
    """
    if list_keys:
        _print_keys(as_json)
        return
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    findings = []
    for finding in examine(config_path, overrides):
        findings.append(finding)
        if not as_json:
            _print(finding)
    healthy = all(finding.status is not Status.FAIL for finding in findings)
    if as_json:
        checks = [msgspec.to_builtins(finding) for finding in findings]
        click.echo(orjson.dumps({"ok": healthy, "checks": checks}, option=orjson.OPT_INDENT_2))
    sys.exit(0 if healthy else 1)


def examine(config_path: Path | None, overrides: Sequence[str]) -> Iterator[Finding]:
    """Everything the doctor has to say, as soon as it is known."""
    yield python()
    yield from packages()
    try:
        config = configuration(config_path, overrides)
    except ConfigError as error:
        yield fail("configuration", str(error), "correct it; `shoal doctor --keys` lists every key")
        return
    yield ok("configuration", f"{config_path or 'defaults'}: valid")
    yield from settings(config)
    yield from user_key(config)
    from ..kafka.checkup import broker

    yield from broker(config.kafka)


def _print(finding: Finding) -> None:
    mark = click.style(f"{finding.status.value:4}", fg=_COLOURS[finding.status], bold=True)
    click.echo(f"{mark}  {finding.check}: {finding.found}")
    if finding.advice:
        click.echo(f"      -> {finding.advice}")


def _print_keys(as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "key": key.path,
                "default": msgspec.to_builtins(key.default),
                "unit": unit(key),
                "text": key.text,
                "variable": key.variable,
            }
            for key in keys()
        ]
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
        return
    section = ""
    for key in keys():
        if key.section != section:
            section = key.section
            click.secho(f"\n[{section}]", bold=True)
        default = msgspec.json.encode(key.default).decode()
        click.echo(f"{key.name} = {default}{f'  {unit(key)}' if unit(key) else ''}")
        click.echo(f"    {key.text}")

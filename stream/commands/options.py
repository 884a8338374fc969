"""Options that several verbs share."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from ..config import Config, load


class Number(click.FloatRange):
    """A float inside its range; `nan`, which no comparison refuses, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


AT_LEAST_0, AT_LEAST_1 = click.IntRange(min=0), click.IntRange(min=1)
SHARE = Number(0, 1)
RATE = SECONDS = Number(min=0, min_open=True)
DAYS_RANGE = Number(min=0, min_open=True, max=3660)

Decorated = Callable[..., Any]

_config = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="TOML file; SHOAL_* variables override it.",
)
_set = click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one configuration key."
)


def configured(command: Decorated) -> Decorated:
    """--config and --set, to be passed to `configuration`."""
    return _config(_set(command))


def configuration(config_path: Path | None, overrides: Sequence[str]) -> Config:
    return load(config_path, overrides)


def log_to_stderr() -> None:
    """Shoal's own lines on stderr, so that stdout stays clean; of the libraries only what is wrong."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    logging.getLogger("librdkafka").setLevel(logging.CRITICAL)  # every refused connection is an ERROR there
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of text.")


def tell(result: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], str]) -> None:
    """A measurement on stdout: one JSON object, or as text."""
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        click.echo(render(result))

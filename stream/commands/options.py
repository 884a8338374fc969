"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ..config import Config, load

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


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of text.")

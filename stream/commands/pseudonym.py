"""shoal pseudonym: what a user is called in everything Shoal publishes, for the operator who has the key."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson

from ..ports import ConfigError
from ..users import ANONYMOUS
from .options import as_json, configuration, configured


@click.command(short_help="the pseudonym of a user id")
@click.argument("user_id", required=False)
@configured
@click.option("--anonymous", is_flag=True, help="It is an anonymous id.")
@as_json
def command(
    user_id: str | None, config_path: Path | None, overrides: tuple[str, ...], anonymous: bool, as_json: bool
) -> None:
    """The key under which USER_ID stands in segment.changes, segment.members and the pages.

    Without USER_ID one id a line is read from stdin, so that no id need be in a shell's history. The same key
    (privacy.user_key_file or SHOAL_PRIVACY_USER_KEY) and version as the engine's are needed. Nothing is logged.
    """
    from ..privacy.keyfile import pseudonyms
    from ..values import user_key

    known = pseudonyms(configuration(config_path, overrides))
    if known is None:
        raise ConfigError(
            "no key is configured (privacy.user_key_file or SHOAL_PRIVACY_USER_KEY): users are published by their ids"
        )
    ids = [user_id] if user_id is not None else [line.rstrip("\r\n") for line in sys.stdin]
    found = [user_key(known.name(ANONYMOUS * anonymous + one)) for one in ids if one]
    if as_json:
        sys.stdout.buffer.write(orjson.dumps({"keys": found, "user_key": known.fingerprint}) + b"\n")
    else:
        click.echo("\n".join(found))

"""What `shoal doctor` says about the key of the pseudonyms."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from ..checkup import Finding, fail, ok, warn
from ..config import Config
from ..ports import ConfigError
from .keyfile import KEY_VARIABLE, pseudonyms, readable_by_others

_CHECK = "user key"


def user_key(config: Config, environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Whether the key is there and strong, and who else may read it; nothing where none is configured."""
    environ = os.environ if environ is None else environ
    path = config.privacy.user_key_file
    try:
        found = pseudonyms(config, environ)
    except ConfigError as error:
        where, _, problem = str(error).partition(": ")
        yield fail(_CHECK, where, problem)
        return
    if found is None:
        return
    if path and readable_by_others(path):
        yield warn(_CHECK, f"{path} may be read by every account", f"chmod o-r {path}")
    elif path and KEY_VARIABLE in environ:
        yield warn(_CHECK, f"{path} outweighs {KEY_VARIABLE}", f"unset {KEY_VARIABLE}, or the file's setting")
    else:
        yield ok(_CHECK, f"version and fingerprint {found.fingerprint}")

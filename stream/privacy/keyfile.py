"""Reads the key of the pseudonyms, once, before the pipeline is built. The key is never shown.

A key is at least 32 random bytes: as they are, or as text in hexadecimal or base64. What looks like words is
refused: a pseudonym is as hard to undo as its key is to guess.
"""

from __future__ import annotations

import binascii
import os
import re
import stat
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path

from ..config import Config, Privacy
from ..ports import ConfigError
from .pseudonyms import KEY_BYTES_MIN, Pseudonyms

KEY_VARIABLE = "SHOAL_PRIVACY_USER_KEY"
_FILE_BYTES_MAX = 4096
_DISTINCT_MIN = 16  # of 32 random bytes about 30 differ; fewer than 16 do once in 10^11 keys
_MAKE = "make one with `openssl rand -base64 32 > FILE` and let only Shoal read it"
_HEX = re.compile(rb"[0-9A-Fa-f]+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_PRINTABLE = re.compile(rb"[\t\n\r -~]*")


def pseudonyms(config: Config, environ: Mapping[str, str] | None = None) -> Pseudonyms | None:
    """What `privacy.user_key_file` or the variable says; None where neither is there: user ids stay as they are.

    Raises ConfigError for a key that cannot be read or is too weak, and where something else needs one.
    """
    key = read_key(config.privacy, os.environ if environ is None else environ)
    if key is None and config.privacy.size_epsilon:
        raise ConfigError(
            f"privacy.size_epsilon = {config.privacy.size_epsilon:g} needs a secret for its noise, and there is no "
            f"key: name one in privacy.user_key_file, or set {KEY_VARIABLE}; {_MAKE}"
        )
    return None if key is None else Pseudonyms(key, config.privacy.user_key_version)


def read_key(config: Privacy, environ: Mapping[str, str]) -> bytes | None:
    """The bytes of the key: of the file if one is named, else of the variable."""
    if config.user_key_file:
        where = f"privacy.user_key_file {config.user_key_file}"
        try:
            with Path(config.user_key_file).open("rb") as file:
                content = file.read(_FILE_BYTES_MAX + 1)
        except OSError as error:
            raise ConfigError(f"{where}: {error.strerror}; {_MAKE}") from None
        return _decoded(content, where)
    if KEY_VARIABLE in environ:
        return _decoded(environ[KEY_VARIABLE].encode("utf-8", "surrogateescape"), KEY_VARIABLE)
    return None


def _decoded(content: bytes, where: str) -> bytes:
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigError(f"{where}: more than {_FILE_BYTES_MAX} bytes, wanted a key; {_MAKE}")
    key = _bytes(content, where)
    if len(key) < KEY_BYTES_MIN:
        raise ConfigError(f"{where}: a key of {len(key)} bytes, wanted {KEY_BYTES_MIN} or more; {_MAKE}")
    if len(set(key)) < _DISTINCT_MIN:
        raise ConfigError(f"{where}: not random ({len(set(key))} different bytes); {_MAKE}")
    return key


def _bytes(content: bytes, where: str) -> bytes:
    text = content.strip()
    if _HEX.fullmatch(text) and len(text) % 2 == 0:
        return binascii.unhexlify(text)
    if _BASE64.fullmatch(text) and len(text.rstrip(b"=")) % 4 != 1:
        text = text.rstrip(b"=")
        return b64decode(text.translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(text) % 4))
    if text and _PRINTABLE.fullmatch(content):
        raise ConfigError(
            f"{where}: is text, and neither hexadecimal nor base64; wanted random bytes; {_MAKE}"
        )
    return content


def readable_by_others(path: str) -> bool:
    """Whether every account of this machine may read the file."""
    return bool(os.stat(path).st_mode & stat.S_IROTH)

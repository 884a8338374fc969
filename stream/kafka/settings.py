"""From the [kafka] section to the library's settings. Passwords are sent, and never shown.

kafka-python logs configurations and, at level DEBUG, everything as it goes over the wire: a password is therefore
a `Secret`, and the two loggers that would show a login, or events with their user ids, say nothing below INFO.
"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import Any

from ..config import Kafka
from ..ports import ConfigError

PASSWORD_VARIABLE = "SHOAL_KAFKA_SASL_PASSWORD"
_CONNECT_MS = 5_000
_WIRE_LOGGERS = ("kafka.net.connection", "kafka.protocol.parser")


class Secret(str):
    """Text that shows as *** wherever it is printed; the library still sends the real bytes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)


def settings(config: Kafka) -> dict[str, Any]:
    """Keyword arguments that every kafka-python client takes. Raises ConfigError for unusable secrets."""
    found: dict[str, Any] = {
        "bootstrap_servers": [part.strip() for part in config.bootstrap_servers.split(",") if part.strip()],
        "security_protocol": config.security_protocol,
        "bootstrap_timeout_ms": _CONNECT_MS,
        "reconnect_backoff_max_ms": 1_000,
        "retry_backoff_ms": 10,  # a transaction's p99 falls from 129 to 40-50 ms
    }
    _hide_the_wire()
    if config.security_protocol.startswith("SASL"):
        found |= {
            "sasl_mechanism": config.sasl_mechanism or "PLAIN",
            "sasl_plain_username": config.sasl_username,
            "sasl_plain_password": _password(config),
        }
    if config.security_protocol.endswith("SSL"):
        found["ssl_context"] = _ssl_context(config)
    return found


def _hide_the_wire() -> None:
    """Two of the library's loggers show what is sent and fetched, logins and user ids too: not below INFO."""
    for name in _WIRE_LOGGERS:
        logger = logging.getLogger(name)
        if _no_debug not in logger.filters:
            logger.addFilter(_no_debug)


def _no_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


def _password(config: Kafka) -> Secret:
    if config.sasl_password_file:
        try:
            return Secret(Path(config.sasl_password_file).read_text("utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ConfigError(f"kafka.sasl_password_file {config.sasl_password_file}: {reason}") from None
    if PASSWORD_VARIABLE in os.environ:
        return Secret(os.environ[PASSWORD_VARIABLE])
    raise ConfigError(
        f"kafka.security_protocol is {config.security_protocol}, but there is no password: put it in a file "
        f"and name it in kafka.sasl_password_file, or set {PASSWORD_VARIABLE}"
    )


def _ssl_context(config: Kafka) -> ssl.SSLContext:
    """A context of our own: the library ignores some ssl_* settings when it makes one."""
    try:
        context = ssl.create_default_context(cafile=config.ssl_cafile or None)
        if config.ssl_certfile:
            context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile or None)
        return context
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or "not a usable PEM file"
        names = ", ".join(n for n in (config.ssl_cafile, config.ssl_certfile, config.ssl_keyfile) if n)
        raise ConfigError(f"kafka.ssl_*: {names}: {reason}; name readable PEM files") from None


def transactional_id(config: Kafka) -> str:
    return config.transactional_id or f"shoal-{config.group_id}"


def control_topic(config: Kafka) -> str:
    """Name of the topic of commands, with the prefix; "" where there is to be none."""
    return config.topic_prefix + config.control_topic if config.control_topic else ""


def input_topic(config: Kafka) -> str:
    return config.topic_prefix + config.events_topic

"""What every Kafka client of Shoal shares: settings, secrets, waiting for the broker, bounded calls.

kafka-python, as it was found: a commit, an abort and close() have no timeout; a client that cannot reach its
broker leaves a thread behind; configurations with passwords are logged. Here every call that can hang is
bounded, what was half made is closed, and a password never has a readable repr.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from kafka import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient

from .config import Kafka
from .ports import BrokerGone, ConfigError, ShoalError

log = logging.getLogger("shoal")

T = TypeVar("T")

PASSWORD_VARIABLE = "SHOAL_KAFKA_SASL_PASSWORD"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_SLICE_S = 0.1
_CONNECT_MS = 5_000
REFUSED = (AuthorizationError, SaslAuthenticationFailedError, UnsupportedSaslMechanismError)


class Secret(str):
    """Text that shows as *** wherever it is printed; the library still sends the real bytes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)


# --- settings ---------------------------------------------------------------------------------------------


def settings(config: Kafka) -> dict[str, Any]:
    """Keyword arguments that every kafka-python client takes. Raises ConfigError for unusable secrets."""
    found: dict[str, Any] = {
        "bootstrap_servers": [part.strip() for part in config.bootstrap_servers.split(",") if part.strip()],
        "security_protocol": config.security_protocol,
        "bootstrap_timeout_ms": _CONNECT_MS,
        "reconnect_backoff_max_ms": 1_000,
        "retry_backoff_ms": 10,  # a transaction's p99 falls from 129 to 40-50 ms
    }
    if config.security_protocol.startswith("SASL"):
        found |= {
            "sasl_mechanism": config.sasl_mechanism or "PLAIN",
            "sasl_plain_username": config.sasl_username,
            "sasl_plain_password": _password(config),
        }
    if config.security_protocol.endswith("SSL"):
        found["ssl_context"] = _ssl_context(config)
    return found


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


# --- making and closing clients -----------------------------------------------------------------------------


def make(kind: Callable[..., T], **configs: Any) -> T:
    """A client, or the error that the library raised; whatever it had started by then is closed."""
    nets: list[KafkaNetClient] = []

    def remember(**net_configs: Any) -> KafkaNetClient:
        nets.append(KafkaNetClient(**net_configs))
        return nets[-1]

    try:
        return kind(kafka_client=remember, **configs)
    except BaseException:
        for net in nets:
            net.close()
        raise


def bounded(call: Callable[[], T], timeout_s: float, what: str) -> T:
    """The call's result, or TimeoutError; a call that hangs is left behind in a daemon thread."""
    result: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:  # handed to the caller below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name=f"shoal-{what}")
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not result:
        raise TimeoutError(f"{what} took longer than {timeout_s:.1f} s")
    return result[0]


def close_quietly(close: Callable[[], object], timeout_s: float, what: str) -> None:
    """Close, at most this long; a failure to close is worth one line, never an exception."""
    try:
        bounded(lambda: (close(),), timeout_s, what)
    except (KafkaError, TimeoutError, RuntimeError, AssertionError) as error:
        log.debug("%s did not close cleanly: %s", what, error)


def refused(config: Kafka, error: KafkaError) -> ConfigError:
    """The broker is there and said no."""
    return ConfigError(
        f"{config.bootstrap_servers} refused user {config.sasl_username!r}: {type(error).__name__}. Check "
        f"kafka.sasl_* and this user's permissions with `shoal doctor`"
    )


# --- waiting for the broker ---------------------------------------------------------------------------------


class Patience:
    """Pauses that grow, one clear line each, up to `kafka.broker_wait_s` in all."""

    def __init__(self, config: Kafka, stopping: Callable[[], bool], quiet: bool = False) -> None:
        self._config = config
        self._stopping = stopping
        self._level = logging.DEBUG if quiet else logging.WARNING
        self._started_s = time.monotonic()
        self._pause_s = _FIRST_PAUSE_S

    def pause(self, error: BaseException) -> bool:
        """Wait a little longer than last time; False when told to stop. Raises BrokerGone at the end."""
        config = self._config
        left_s = config.broker_wait_s - (time.monotonic() - self._started_s)
        reason = _short(error)
        if left_s <= 0:
            raise BrokerGone(
                f"no Kafka broker at {config.bootstrap_servers} for {config.broker_wait_s:g} s ({reason}). "
                f"Start it, correct kafka.bootstrap_servers, or raise kafka.broker_wait_s"
            ) from None
        pause_s = min(self._pause_s, left_s)
        log.log(
            self._level,
            "broker %s does not answer (%s); next try in %.2f s, giving up in %.0f s",
            config.bootstrap_servers, reason, pause_s, left_s,
        )  # fmt: skip
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return self._sleep(pause_s)

    def _sleep(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._stopping():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return True
            time.sleep(min(_SLICE_S, left_s))
        return False


def _short(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__


def connect(config: Kafka, stopping: Callable[[], bool], quiet: bool = False) -> KafkaAdminClient | None:
    """An admin client of a broker that answers; None when told to stop before that.

    Waits with growing pauses, one line each unless `quiet`. Raises BrokerGone after `kafka.broker_wait_s`,
    ConfigError when refused.
    """
    patience = Patience(config, stopping, quiet)
    configs = settings(config)
    while not stopping():
        try:
            _knock(configs["bootstrap_servers"])
            return make(KafkaAdminClient, **configs)
        except REFUSED as error:
            raise refused(config, error) from None
        except (KafkaError, OSError) as error:
            if not patience.pause(error):
                return None
    return None


def _knock(servers: list[str]) -> None:
    """Raise OSError unless one of the servers accepts a connection; cheaper than a client that gives up."""
    failure: OSError = OSError("kafka.bootstrap_servers is empty")
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            address = (host.strip("[]"), int(port)) if port.isdigit() else (server, 9092)
            socket.create_connection(cast("tuple[str, int]", address), timeout=2.0).close()
            return
        except OSError as error:
            failure = error
    raise failure


def wait_for_broker(config: Kafka, stopping: Callable[[], bool]) -> None:
    """Return when a broker answers, or when told to stop. Raises BrokerGone after `kafka.broker_wait_s`."""
    admin = connect(config, stopping)
    if admin is not None:
        close_quietly(admin.close, 2.0, "admin client")


def broker_away(error: BaseException) -> bool:
    """Whether an error can be cured by waiting: nobody was fenced or refused, the broker was not there."""
    if isinstance(error, ShoalError):
        return False
    return isinstance(error, (TimeoutError, OSError)) or bool(getattr(error, "retriable", False))

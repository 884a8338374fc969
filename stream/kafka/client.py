"""What every Kafka client of Shoal shares: how it is made and closed, waiting for the broker, bounded calls.

kafka-python, as it was found: a commit, an abort and close() have no timeout; a client that cannot reach its
broker leaves a thread behind; a refused password is tried again until a timeout. Here every call that can
hang is bounded, what was half made is closed, and a no is a no.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    KafkaConnectionError,
    KafkaError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from ..config import Kafka
from ..ports import BrokerGone, ConfigError, ShoalError
from .headers import accept_any_header_name
from .settings import settings

log = logging.getLogger("shoal")

T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_SLICE_S = 0.1
_CONNECT_S = 30.0  # an admin client gives up by itself long before
_CLOSED_AT_ONCE_MAX = 3
REFUSED = (AuthorizationError, SaslAuthenticationFailedError, UnsupportedSaslMechanismError)


# --- making and closing clients -----------------------------------------------------------------------------

accept_any_header_name()


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Connections that remember a refused login; the library would try a wrong password until its timeout.

    It also loses the broker's answer when the connection is closed right behind it, which a broker does after
    a wrong password: so, with passwords, three connections in a row that were closed at once count as no.
    """

    _refusal: BaseException | None = None
    _closed_at_once = 0

    def __init__(self, net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        # the library does not hand it on: with its 100 ms, each connect and each topic's first record would wait
        self.cluster.config["retry_backoff_ms"] = configs.get("retry_backoff_ms", 100)

    def get_connection(self, node_id: Any, *args: Any, **kwargs: Any) -> Any:
        if self._refusal is not None:
            raise self._refusal
        connection = super().get_connection(node_id, *args, **kwargs)
        connection.init_future.add_both(self._opened)
        return connection

    def _opened(self, result: object) -> None:
        """Runs on the I/O thread when a connection is ready, or failed with `result`."""
        closed = self.config["sasl_mechanism"] and isinstance(result, KafkaConnectionError)
        self._closed_at_once = self._closed_at_once + 1 if closed and "disconnected" in str(result) else 0
        if isinstance(result, REFUSED):
            self._refusal = result
        elif self._closed_at_once >= _CLOSED_AT_ONCE_MAX:
            self._refusal = SaslAuthenticationFailedError("connection closed during login")


def make(kind: Callable[..., T], **configs: Any) -> T:
    """A client, or the error that the library raised; whatever it had started by then is closed."""
    nets: list[KafkaNetClient] = []

    def remember(**net_configs: Any) -> KafkaNetClient:
        net = NetworkSelector(**net_configs)
        nets.append(KafkaNetClient(net=net, manager=_Manager(net, **net_configs)))
        return nets[-1]

    try:
        return kind(kafka_client=remember, **configs)
    except BaseException:
        for net in nets:
            net.close()
        raise


def never() -> bool:
    """Nobody tells this wait to stop."""
    return False


def bounded(call: Callable[[], T], timeout_s: float, what: str, stopping: Callable[[], bool] = never) -> T:
    """The call's result, or TimeoutError, also when told to stop; what hangs is left in a daemon thread."""
    result: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:  # handed to the caller below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name=f"shoal-{what}")
    thread.start()
    deadline_s = time.monotonic() + timeout_s
    while thread.is_alive() and not stopping() and (left_s := deadline_s - time.monotonic()) > 0:
        thread.join(left_s if stopping is never else min(_SLICE_S, left_s))
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
        self.renew()

    def renew(self) -> None:
        """The broker is there: what may come after this moment is another wait."""
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
    name = type(error).__name__
    text = str(error).removeprefix(f"{name}: ").partition("\n")[0]
    return f"{name}: {text[:120]}" if text else name


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
            return bounded(lambda: make(KafkaAdminClient, **configs), _CONNECT_S, "connect", stopping)
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
            socket.create_connection(address, timeout=2.0).close()
            return
        except OSError as error:
            failure = error
    raise failure


def wait_for_broker(config: Kafka, stopping: Callable[[], bool]) -> None:
    """Return when a broker answers, or when told to stop. Raises BrokerGone after `kafka.broker_wait_s`."""
    admin = connect(config, stopping)
    if admin is not None:
        close_quietly(admin.close, 2.0, "admin client")


_AWAY = ("TimedOut", "Timeout", "Connection", "NotReady", "CoordinatorNotAvailable", "NotCoordinator")


def broker_away(error: BaseException) -> bool:
    """Whether an error can be cured by waiting: nobody was fenced or refused, the broker was not there.

    The producer wraps the true reason in a plain KafkaError and leaves only its name in the text.
    """
    if isinstance(error, ShoalError):
        return False
    if type(error) is KafkaError:
        return any(name in str(error) for name in _AWAY)
    return isinstance(error, (TimeoutError, OSError)) or bool(getattr(error, "retriable", False))


@contextmanager
def reading_errors(config: Kafka, topic: str) -> Iterator[None]:
    """What a member of a group hears while it polls, as errors of the port. What waiting may cure is passed over
    (the caller's watch asks, and waits); a position that is not in the log is for the caller to explain."""
    try:
        yield
    except (OffsetOutOfRangeError, LogTruncationError, NoOffsetForPartitionError):
        raise
    except REFUSED as error:
        raise refused(config, error) from None
    except KafkaError as error:  # seen: the coordinator is looked for while the broker is away
        if not broker_away(error):
            raise BrokerGone(f"{topic} cannot be read: {error}") from None
        log.debug("%s: %s", topic, error)

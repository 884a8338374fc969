"""What librdkafka says went wrong, in the words of the ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from ..config import Kafka
from ..kafka.port import ClientError
from ..ports import ConfigError

_FENCED = frozenset({"_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"})
_AWAY = frozenset({
    "_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_TIMED_OUT_QUEUE", "_MSG_TIMED_OUT", "_RESOLVE", "_WAIT_COORD",
    "_WAIT_CACHE", "REQUEST_TIMED_OUT", "NETWORK_EXCEPTION", "BROKER_NOT_AVAILABLE", "LEADER_NOT_AVAILABLE",
    "NOT_LEADER_FOR_PARTITION", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS", "NOT_COORDINATOR",
    "ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS",  # the group moved on: come back as a new member
})  # fmt: skip
_REFUSED = frozenset({"_AUTHENTICATION", "_SSL", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM"})
_REFUSED_END = "AUTHORIZATION_FAILED"

OUTSIDE = frozenset({"_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE", "_LOG_TRUNCATION"})
"""A position that the log does not hold."""

NO_TOPIC = frozenset({
    "UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "UNKNOWN_TOPIC_ID", "INCONSISTENT_TOPIC_ID",
})  # fmt: skip
"""The topic, or one of its partitions, is not there (any more, or yet)."""


def reason(error: KafkaException | KafkaError) -> KafkaError:
    """The library's error inside its exception."""
    return error if isinstance(error, KafkaError) else error.args[0]


def text(error: KafkaError) -> str:
    return f"{error.name()}: {error.str()}"


def away(error: KafkaError) -> bool:
    """Whether waiting can cure it: nobody was fenced or refused, the broker was not there."""
    return error.name() in _AWAY or error.retriable()


def client_error(error: KafkaError) -> ClientError:
    return ClientError(text(error), away=away(error), fenced=error.name() in _FENCED)


@contextmanager
def client_errors() -> Iterator[None]:
    """Whatever the library raises, as ClientError."""
    try:
        yield
    except KafkaException as error:
        raise client_error(reason(error)) from None
    except SystemError as error:  # a fatal error: the library sets its exception, and calls back nevertheless
        if isinstance(error.__cause__, KafkaException):
            raise client_error(reason(error.__cause__)) from None
        raise ClientError(f"SystemError: {error}") from None  # or forgets its exception
    except (BufferError, RuntimeError, ValueError) as error:
        raise ClientError(f"{type(error).__name__}: {error}") from None


def refusal(config: Kafka, error: KafkaError) -> ConfigError | None:
    """The error to raise when the broker is there and said no; None for any other trouble."""
    name = error.name()
    if name not in _REFUSED and not name.endswith(_REFUSED_END):
        return None
    return ConfigError(
        f"{config.bootstrap_servers} refused user {config.sasl_username!r}: {name}. Check kafka.sasl_*, "
        f"kafka.ssl_* and this user's permissions with `shoal doctor`"
    )

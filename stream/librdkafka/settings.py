"""From the [kafka] section to librdkafka's settings. Passwords are sent, and never shown.

The library does not print its configuration, and none of its debug contexts is ever switched on; its own log
lines go to the logger `librdkafka`. What a password or a certificate must be is checked where kafka-python's
settings are made, so that both clients refuse the same things in the same words.
"""

from __future__ import annotations

import logging
import ssl
from typing import Any

from ..config import Kafka
from ..kafka.admin import REJECTED_MAX_BYTES
from ..kafka.settings import settings, transactional_id

LIBRARY_LOG = logging.getLogger("librdkafka")

_CONNECT_MS = 5_000
_QUEUE_KIB = 128 << 10
"""Of records handed over and not yet acknowledged; the sink settles every `engine.step_bytes_max` before."""
_HEARTBEAT_MS_MAX = 300
"""A member hears with a heartbeat's answer that another one left: this is a part of every takeover."""


def _shared(config: Kafka) -> dict[str, Any]:
    """What every client needs. Raises ConfigError for unusable secrets."""
    checked = settings(config)
    found: dict[str, Any] = {
        "bootstrap.servers": config.bootstrap_servers,
        "security.protocol": config.security_protocol,
        "client.id": "shoal",
        "socket.connection.setup.timeout.ms": _CONNECT_MS,
        "reconnect.backoff.max.ms": 1_000,
        "retry.backoff.ms": 10,
        "topic.metadata.refresh.interval.ms": 3_000,  # a broker that just came up may not know its topics yet
        "log.connection.close": False,
        "enable.metrics.push": False,
    }
    if config.security_protocol.startswith("SASL"):
        found |= {
            "sasl.mechanism": checked["sasl_mechanism"],
            "sasl.username": config.sasl_username,
            "sasl.password": checked["sasl_plain_password"].encode().decode(),  # str() of it says ***
        }
    if config.security_protocol.endswith("SSL"):
        found |= _tls(config)
    return found


def _tls(config: Kafka) -> dict[str, str]:
    """The same certificates that Python trusts: the library brings an OpenSSL that looks elsewhere."""
    system = ssl.get_default_verify_paths()
    paths = {
        "ssl.ca.location": config.ssl_cafile or system.cafile or system.capath or "",
        "ssl.certificate.location": config.ssl_certfile,
        "ssl.key.location": config.ssl_keyfile or config.ssl_certfile,
    }
    return {name: path for name, path in paths.items() if path}


def reading(config: Kafka, wait_ms: int = 500) -> dict[str, Any]:
    """For partitions assigned by hand: bytes, committed only, never resetting, joining no group.

    At most 32 MiB wait to be read, whatever the number of partitions. `wait_ms`: how long the broker may keep a
    request that finds nothing; whoever goes elsewhere in the log meanwhile waits for its return.
    """
    return _shared(config) | {
        "group.id": config.group_id,  # the library wants one; nothing is committed, nobody joins
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,  # also says how far markers without records reach
        "fetch.max.bytes": 32 << 20,
        "max.partition.fetch.bytes": 8 << 20,
        "queued.max.messages.kbytes": 32 << 10,
        "queued.min.messages": 100_000,
        "fetch.queue.backoff.ms": 5,  # its 1,000 would be idle time whenever the queue was full: 7x slower
        "fetch.wait.max.ms": wait_ms,
        "fetch.error.backoff.ms": 100,
    }


def electing(config: Kafka) -> dict[str, Any]:
    """For the member of the consumer group that decides who works."""
    return _shared(config) | {
        "group.id": config.group_id,
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": config.session_timeout_ms,
        "heartbeat.interval.ms": min(_HEARTBEAT_MS_MAX, config.session_timeout_ms // 4),
        "max.poll.interval.ms": max(300_000, config.session_timeout_ms),
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
    }


def producing(config: Kafka) -> dict[str, Any]:
    """For the transactional producer."""
    return _shared(config) | {
        "transactional.id": transactional_id(config),
        "transaction.timeout.ms": config.transaction_timeout_ms,
        "message.timeout.ms": min(config.delivery_timeout_ms, config.transaction_timeout_ms),
        "request.timeout.ms": min(30_000, config.delivery_timeout_ms // 2),
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",  # as Java and kafka-python: a key keeps its partition with any client
        "linger.ms": 5,  # flush() does not wait for it; it only lets batches fill
        "batch.size": 256 << 10,
        "message.max.bytes": REJECTED_MAX_BYTES,
        "queue.buffering.max.kbytes": _QUEUE_KIB,
        "queue.buffering.max.messages": 0,  # no limit by number: bytes are what is bounded
        "allow.auto.create.topics": False,
    }

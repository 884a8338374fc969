"""The topics Shoal needs: what they must look like, whether they are there, creating them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import InvalidReplicationFactorError, KafkaError, TopicAlreadyExistsError

from ..config import Kafka
from ..events import CATALOG, CHANGES, COMPACTED, LINEAGE, MANIFEST, MEMBERS, REJECTED
from ..ports import ConfigError, TopicsMissing
from .settings import control_topic as control_topic
from .settings import input_topic as input_topic

log = logging.getLogger("shoal")

REJECTED_MAX_BYTES = 4 << 20
"""A reject repeats the original record and adds headers: its topic must take more than the input does."""

_UNKNOWN_TOPIC, _TOPIC_UNAUTHORISED = 3, 29
_COMING_UP_S, _PAUSE_S = 3.0, 0.1


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as Shoal wants it."""

    name: str  # with the prefix
    partitions: int
    configs: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False  # the engine runs without it

    @property
    def policy(self) -> str:
        return self.configs["cleanup.policy"]

    def command(self, config: Kafka) -> str:
        """The command that creates it."""
        extras = "".join(f" --config {key}={value}" for key, value in sorted(self.configs.items()))
        return (
            f"kafka-topics.sh --bootstrap-server {config.bootstrap_servers} --create --topic {self.name} "
            f"--partitions {self.partitions} --replication-factor {config.replication_factor}{extras}"
        )


def wanted(config: Kafka) -> list[Topic]:
    """Every topic of the contract that the engine reads or writes, the input first, the commands last."""
    topics = [Topic(input_topic(config), config.partitions, {"cleanup.policy": "delete"})]
    for name in (CHANGES, MEMBERS, CATALOG, LINEAGE, REJECTED, MANIFEST):
        configs = {"cleanup.policy": "compact" if name in COMPACTED else "delete"}
        if name == MANIFEST:
            configs["retention.ms"] = "-1"  # the truth about every step: never deleted by age
        if name == REJECTED:
            configs["max.message.bytes"] = str(REJECTED_MAX_BYTES)
        topics.append(
            Topic(config.topic_prefix + name, 1 if name == MANIFEST else config.partitions, configs)
        )
    if name := control_topic(config):
        topics.append(Topic(name, 1, {"cleanup.policy": "delete"}, optional=True))  # one order
    return topics


def ensure_control(admin: KafkaAdminClient, config: Kafka) -> None:
    """The control topic is there, or created if `kafka.create_topics` says so. Raises TopicsMissing, ConfigError."""
    found = [topic for topic in wanted(config) if topic.name == control_topic(config)]
    _ensure(admin, config, [replace(topic, optional=False) for topic in found])


def ensure_input(admin: KafkaAdminClient, config: Kafka) -> None:
    """The input topic is there, or created if `kafka.create_topics` says so. Raises TopicsMissing, ConfigError."""
    _ensure(admin, config, wanted(config)[:1])


def ensure_topics(admin: KafkaAdminClient, config: Kafka) -> None:
    """All topics are there, created if `kafka.create_topics` says so. Raises TopicsMissing, ConfigError."""
    found = _ensure(admin, config, wanted(config))
    manifest = found.get(config.topic_prefix + MANIFEST)
    if manifest is not None and len(manifest["partitions"]) != 1:
        raise ConfigError(
            f"{config.topic_prefix}{MANIFEST} has {len(manifest['partitions'])} partitions, wanted 1: manifests "
            f"need one order. Delete it and create it again, or choose another kafka.topic_prefix"
        )


def _ensure(admin: KafkaAdminClient, config: Kafka, topics: Sequence[Topic]) -> dict[str, dict[str, Any]]:
    found = describe(admin, [topic.name for topic in topics])
    missing = [topic for topic in topics if topic.name not in found]
    if missing and not config.create_topics:
        if needed := [topic for topic in missing if not topic.optional]:
            raise TopicsMissing(_missing_text(needed, config))
        return found
    if missing:
        create(admin, missing, config)
    return found


def _missing_text(missing: Sequence[Topic], config: Kafka) -> str:
    lines = [f"topics missing at {config.bootstrap_servers}: {', '.join(topic.name for topic in missing)}"]
    lines += [f"  {topic.command(config)}" for topic in missing]
    lines.append(
        "Run these commands, or let Shoal create them: `shoal run --create-topics`, or kafka.create_topics = true"
    )
    return "\n".join(lines)


def describe(admin: KafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Topic metadata by name; topics that do not exist are left out. Raises ConfigError when forbidden."""
    found = {}
    for topic in admin.describe_topics(list(names)):
        if topic["error_code"] == _TOPIC_UNAUTHORISED:
            raise ConfigError(
                f"topic {topic['name']}: this user may not describe it; grant Describe and Read"
            )
        if topic["error_code"] != _UNKNOWN_TOPIC:
            found[topic["name"]] = topic
    return found


def topic_mark(topic: Mapping[str, Any]) -> str:
    """What tells a topic from another one of the same name; stored with every committed offset."""
    return f"topic={topic['topic_id']} partitions={len(topic['partitions'])}"


def create(admin: KafkaAdminClient, topics: Sequence[Topic], config: Kafka) -> None:
    """Create topics and wait until they have leaders. Raises ConfigError when the broker refuses."""
    request = {
        topic.name: {
            "num_partitions": topic.partitions,
            "replication_factor": config.replication_factor,
            "configs": dict(topic.configs),
        }
        for topic in topics
    }
    try:
        _create(admin, request)
    except TopicAlreadyExistsError:
        log.info("topics were created by somebody else at the same time")
    except KafkaError as error:
        raise ConfigError(
            f"topics {', '.join(request)} could not be created: {error}. Check permissions, kafka.partitions "
            f"and kafka.replication_factor"
        ) from None
    admin.wait_for_topics(list(request))
    log.info("created topics %s", ", ".join(request))


def _create(admin: KafkaAdminClient, request: Mapping[str, Any]) -> None:
    """A broker that has only just come up takes no replicas for a moment: asked again for `_COMING_UP_S`."""
    until_s = time.monotonic() + _COMING_UP_S
    while True:
        try:
            admin.create_topics(request)
            return
        except InvalidReplicationFactorError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(_PAUSE_S)

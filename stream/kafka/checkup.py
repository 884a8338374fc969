"""What `shoal doctor` asks the broker: versions, topics, permissions, limits. It changes nothing there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import msgspec

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    AuthorizationError,
    CoordinatorNotAvailableError,
    KafkaError,
    TransactionalIdNotFoundError,
)

from ..checkup import Finding, fail, ok, warn
from ..config import Kafka
from ..events import MANIFEST, REJECTED
from ..ports import ConfigError, ShoalError
from .admin import Topic, control_topic, describe, input_topic, wanted
from .client import connect
from .settings import transactional_id

_PATIENCE_S = 5.0
_READ, _WRITE = "READ", "WRITE"

Configs = dict[str, str]


def broker(config: Kafka) -> Iterator[Finding]:
    """All that can be said about the cluster; one failing line when it cannot be reached."""
    try:
        admin = connect(
            msgspec.structs.replace(config, broker_wait_s=min(config.broker_wait_s, _PATIENCE_S)),
            lambda: False,
            quiet=True,
        )
    except ShoalError as error:
        advice = (
            "correct kafka.sasl_* or kafka.ssl_*" if isinstance(error, ConfigError) else "start the broker"
        )
        yield fail("broker", str(error), f"{advice}, or correct kafka.bootstrap_servers")
        return
    assert admin is not None, "nobody can stop this wait"
    with closing(admin):
        try:
            yield from _cluster(admin, config)
        except KafkaError as error:
            yield fail("broker", f"stopped answering: {error}", "look at the broker's log, then try again")


def _cluster(admin: KafkaAdminClient, config: Kafka) -> Iterator[Finding]:
    brokers = admin.describe_cluster()["brokers"]
    yield ok("broker", f"{config.bootstrap_servers}: {len(brokers)} broker{'s'[: len(brokers) != 1]}")
    if config.replication_factor > len(brokers):
        yield fail(
            "replication",
            f"kafka.replication_factor {config.replication_factor}, but {len(brokers)} brokers",
            "lower it, or add brokers: topics could not be created",
        )
    yield from _topics(admin, config, len(brokers))
    yield from _group(admin, config)
    yield from _transactions(admin, config)
    yield from _limits(admin, config, brokers[0]["broker_id"])


# --- topics -----------------------------------------------------------------------------------------------


def _topics(admin: KafkaAdminClient, config: Kafka, brokers: int) -> Iterator[Finding]:
    topics = wanted(config)
    try:
        found = describe(admin, [topic.name for topic in topics])
    except ConfigError as error:
        yield fail("topics", str(error), "grant this user Describe on every topic of the contract")
        return
    configs = _configs(admin, ConfigResourceType.TOPIC, list(found))
    for topic in topics:
        check = f"topic {topic.name}"
        if topic.name not in found:
            advice = topic.command(config) + "  (or `shoal run --create-topics`)"
            missing = "missing: no commands are read" if topic.optional else "missing"
            yield (warn if config.create_topics or topic.optional else fail)(check, missing, advice)
            continue
        problems = list(_topic(topic, found[topic.name], configs[topic.name], config, brokers))
        partitions = len(found[topic.name]["partitions"])
        yield from problems or [
            ok(check, f"{partitions} partitions, {configs[topic.name]['cleanup.policy']}")
        ]
    yield from _largest_record(config, configs)


def _topic(
    topic: Topic, found: dict[str, Any], configs: Configs, config: Kafka, brokers: int
) -> Iterator[Finding]:
    """What is wrong with a topic that is there."""
    check = f"topic {topic.name}"
    partitions = found["partitions"]
    alter = f"kafka-configs.sh --bootstrap-server {config.bootstrap_servers} --alter --topic {topic.name}"
    if topic.name == config.topic_prefix + MANIFEST and len(partitions) != 1:
        yield fail(
            check, f"{len(partitions)} partitions, wanted 1", "delete it and create it again: one order"
        )
    if configs["cleanup.policy"] != topic.policy:
        yield fail(
            check,
            f"cleanup.policy {configs['cleanup.policy']}, wanted {topic.policy}",
            f"{alter} --add-config cleanup.policy={topic.policy}",
        )
    if topic.configs.get("retention.ms") == "-1" and configs["retention.ms"] != "-1":
        yield warn(
            check,
            f"retention.ms {configs['retention.ms']}: manifests will be deleted",
            f"{alter} --add-config retention.ms=-1, or a run that paused for longer starts over",
        )
    replicas = min((len(p["replica_nodes"]) for p in partitions), default=0)
    if replicas < int(configs["min.insync.replicas"]):
        yield fail(
            check,
            f"{replicas} replicas, min.insync.replicas {configs['min.insync.replicas']}",
            "add replicas or lower min.insync.replicas: nothing can be written",
        )
    elif replicas == 1 and brokers > 1:
        yield warn(check, "1 replica", "replicate it: one lost disk loses the topic")
    if any(p["leader_id"] < 0 for p in partitions):
        yield fail(check, "a partition has no leader", "look at the brokers' logs")
    needed = _READ if topic.name in (input_topic(config), control_topic(config)) else _WRITE
    if needed not in found["authorized_operations"]:
        yield fail(check, f"this user may not {needed.lower()}", f"grant {needed.title()} on {topic.name}")


def _largest_record(config: Kafka, configs: dict[str, Configs]) -> Iterator[Finding]:
    """A reject repeats its original: the topic of rejects must take what the input takes."""
    source, rejects = input_topic(config), config.topic_prefix + REJECTED
    if source not in configs or rejects not in configs:
        return
    largest, room = (int(configs[name]["max.message.bytes"]) for name in (source, rejects))
    if room <= largest:
        yield warn(
            f"topic {rejects}",
            f"max.message.bytes {room}, the input's is {largest}",
            f"raise it above {largest}: a rejected record of the largest size could not be written",
        )


def _configs(admin: KafkaAdminClient, kind: ConfigResourceType, names: list[str]) -> dict[str, Configs]:
    if not names:
        return {}
    found = admin.describe_configs([ConfigResource(kind, name) for name in names], config_filter="all")
    return {
        name: {key: entry["value"] for key, entry in found[kind.name.lower()][name].items()} for name in names
    }


# --- group, transactions, limits --------------------------------------------------------------------------


def _patiently(ask: Callable[[], Any]) -> Any:
    """A new cluster makes its coordinators when it is first asked for one."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except CoordinatorNotAvailableError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


def _group(admin: KafkaAdminClient, config: Kafka) -> Iterator[Finding]:
    check = f"group {config.group_id}"
    try:
        group = _patiently(
            lambda: admin.describe_groups([config.group_id], include_authorized_operations=True)
        )[config.group_id]
    except AuthorizationError:
        yield fail(check, "this user may not describe it", f"grant Read on group {config.group_id}")
        return
    members = len(group["members"])
    allowed = group["authorized_operations"]  # None: there is no such group yet
    if allowed is not None and _READ not in allowed:
        yield fail(check, "this user may not read", f"grant Read on group {config.group_id}")
    elif group["members"] and group["protocol_data"] not in ("shoal-one-owner", ""):
        yield fail(check, "other consumers than Shoal are in it", "choose another kafka.group_id")
    else:
        works = f"{members} engines: one works, {members - 1} stand by" if members else "nobody works"
        yield ok(check, works if members != 1 else "one engine works")


def _transactions(admin: KafkaAdminClient, config: Kafka) -> Iterator[Finding]:
    name = transactional_id(config)
    check = f"transactional id {name}"
    try:
        state = _patiently(lambda: admin.describe_transactions([name]))[name].state.value
    except TransactionalIdNotFoundError:
        state = "not used yet"
    except AuthorizationError:
        yield fail(
            check, "this user may not describe it", f"grant Describe and Write on transactional id {name}"
        )
        return
    yield ok(check, str(state))


def _limits(admin: KafkaAdminClient, config: Kafka, broker_id: int) -> Iterator[Finding]:
    try:
        limits = _configs(admin, ConfigResourceType.BROKER, [str(broker_id)])[str(broker_id)]
    except (AuthorizationError, KeyError):
        yield warn("limits", "this user may not describe the broker", "grant DescribeConfigs on the cluster")
        return
    yield _at_most("transaction", config.transaction_timeout_ms, limits, "transaction.max.timeout.ms")
    yield _at_most("session", config.session_timeout_ms, limits, "group.max.session.timeout.ms")
    least = int(limits["group.min.session.timeout.ms"])
    if config.session_timeout_ms < least:
        yield fail(
            "session timeout",
            f"kafka.session_timeout_ms {config.session_timeout_ms} < group.min.session.timeout.ms {least}",
            "raise kafka.session_timeout_ms",
        )


def _at_most(what: str, ours: int, limits: Configs, name: str) -> Finding:
    check, key = f"{what} timeout", f"kafka.{what}_timeout_ms"
    most = int(limits[name])
    if ours > most:
        return fail(check, f"{key} {ours} > {name} {most}", f"lower {key}, or raise {name} on the brokers")
    return ok(check, f"{ours} ms, the broker allows {most} ms")

"""`shoal doctor`: says what is wrong and what to do; exit code 0 only when `shoal run` can start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from broker import PASSWORD, USER, Broker
from click.testing import CliRunner
from kafka import KafkaAdminClient
from kafka_kit import create_topics, kafka_config
from processes import write_config

from shoal.stream import checkup
from shoal.stream.checkup import Status, within
from shoal.stream.commands.doctor import command
from shoal.stream.config import Kafka, keys
from shoal.stream.kafka.admin import wanted
from shoal.stream.kafka.checkup import broker as examine_broker
from shoal.stream.kafka.source import KafkaSource

kafka = pytest.mark.kafka

ABSENT = ("--set", "kafka.bootstrap_servers=127.0.0.1:1", "--set", "kafka.broker_wait_s=0")


def doctor(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and the findings by what was checked."""
    result = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    report = json.loads(result.output)
    assert report["ok"] is (result.exit_code == 0)
    return result.exit_code, {finding["check"]: finding for finding in report["checks"]}


# --- this machine ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "requirement", "fits"),
    [
        ("3.0.12", "kafka-python>=3.0.12,<3.1", True),
        ("3.0.11", "kafka-python>=3.0.12,<3.1", False),
        ("3.1", "kafka-python<3.1,>=3.0.12", False),
        ("3.1.0", "kafka-python<3.1,>=3.0.12", False),
        ("2.9.post0", "crc32c>=2.7", True),
        ("2.15.0+cpu", "torch>=2.4", True),
        ("10.0", "x>=9.9", True),
    ],
)
def test_versions_are_compared_as_numbers(found: str, requirement: str, fits: bool) -> None:
    assert within(found, requirement) is fits


def test_a_missing_package_and_a_wrong_version_are_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        checkup, "requires", lambda name: ["no-such-package>=1", "click>=999", 'x>=1; extra == "dev"']
    )
    missing, wrong = checkup.packages()
    assert (missing.status, missing.advice) == (Status.FAIL, "pip install 'no-such-package>=1'")
    assert wrong.status is Status.FAIL
    assert "wanted click>=999" in wrong.found


def test_an_invalid_configuration_is_one_failing_line(tmp_path: Path) -> None:
    (tmp_path / "shoal.toml").write_text("[segmenter]\nsegmnts = 3\n")
    code, found = doctor("--config", str(tmp_path / "shoal.toml"))
    assert code == 1
    assert "did you mean 'segments'" in found["configuration"]["found"]
    assert "broker" not in found


def test_settings_that_work_and_are_not_wise_are_warnings(tmp_path: Path) -> None:
    _, found = doctor(*ABSENT, "--set", "kafka.delivery_timeout_ms=90000")
    assert found["timeouts"]["status"] == "warn"
    assert found["state_dir"]["status"] == "warn"
    _, found = doctor(*ABSENT, "--set", f"engine.state_dir={tmp_path}/not/yet/there")
    assert found["state_dir"]["status"] == "ok"
    (tmp_path / "file").write_text("")
    _, found = doctor(*ABSENT, "--set", f"engine.state_dir={tmp_path}/file")
    assert found["state_dir"]["status"] == "fail"


def test_an_absent_broker_fails_with_what_to_do() -> None:
    code, found = doctor(*ABSENT)
    assert code == 1
    assert "127.0.0.1:1" in found["broker"]["found"]
    assert "kafka.bootstrap_servers" in found["broker"]["advice"]


def test_the_report_for_people_has_one_line_per_finding_and_the_advice_below() -> None:
    result = CliRunner().invoke(command, ABSENT)
    assert result.exit_code == 1
    assert "ok    python: " in result.output
    lines = result.output.splitlines()
    broken = next(i for i, line in enumerate(lines) if line.startswith("fail  broker: "))
    assert lines[broken + 1].startswith("      -> start the broker")


def test_every_configuration_key_is_listed_with_default_unit_and_reason() -> None:
    text = CliRunner().invoke(command, ["--keys"]).output
    assert "lateness_ms = 3600000  milliseconds" in text
    assert "value_max_bytes = 65536  bytes" in text
    rows = json.loads(CliRunner().invoke(command, ["--keys", "--json"]).output)
    assert [row["key"] for row in rows] == [key.path for key in keys()]
    assert all(row["text"] for row in rows)
    assert rows[0]["variable"] == "SHOAL_INPUT_FIELD_MAP"


# --- the broker ------------------------------------------------------------------------------------------


@kafka
def test_a_healthy_deployment_has_nothing_to_complain_about(broker: Broker, tmp_path: Path) -> None:
    config = create_topics(kafka_config(broker))
    path = write_config(tmp_path / "shoal.toml", config, engine={"state_dir": str(tmp_path / "state")})
    code, found = doctor("--config", str(path))
    assert code == 0
    assert {finding["status"] for finding in found.values()} == {"ok"}
    for topic in wanted(config):
        assert topic.policy in found[f"topic {topic.name}"]["found"]
    assert found[f"group {config.group_id}"]["found"] == "nobody works"
    source = KafkaSource(config)
    assert source.open(lambda: False)
    assert doctor("--config", str(path))[1][f"group {config.group_id}"]["found"] == "one engine works"
    source.close()


@kafka
def test_each_missing_topic_comes_with_the_command_that_creates_it(broker: Broker, tmp_path: Path) -> None:
    config = kafka_config(broker)
    code, found = doctor("--config", str(write_config(tmp_path / "shoal.toml", config)))
    assert code == 1
    for topic in wanted(config):
        assert found[f"topic {topic.name}"]["status"] == ("warn" if topic.optional else "fail")
        assert topic.command(config) in found[f"topic {topic.name}"]["advice"]


@kafka
def test_topics_that_are_there_and_wrong_are_named_with_the_cure(broker: Broker) -> None:
    config = kafka_config(broker)
    p = config.topic_prefix
    made: dict[str, dict[str, Any]] = {t.name: {"num_partitions": 1} for t in wanted(config)}
    made[p + "shoal.manifest"] = {"num_partitions": 3}
    made[p + "behavior.events"]["configs"] = {"max.message.bytes": "9000000"}
    made[p + "segment.changes"]["configs"] = {"min.insync.replicas": "2"}
    with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
        admin.create_topics(made, wait_for_metadata=True)
    found = [(f.check, f.status, f.found, f.advice) for f in examine_broker(config)]
    said = [(check.removeprefix(f"topic {p}"), str(status), text) for check, status, text, _ in found]
    assert ("shoal.manifest", "fail", "3 partitions, wanted 1") in said
    assert any(s[:2] == ("shoal.manifest", "warn") and "retention.ms" in s[2] for s in said)
    assert ("segment.members", "fail", "cleanup.policy delete, wanted compact") in said
    assert ("segment.changes", "fail", "1 replicas, min.insync.replicas 2") in said
    assert any(s[:2] == ("behavior.rejected", "warn") and "9000000" in s[2] for s in said)
    cure = next(a for c, _, t, a in found if c.endswith("segment.members") and "cleanup" in t)
    assert cure.startswith(f"kafka-configs.sh --bootstrap-server {broker.address} --alter --topic {p}")


@kafka
def test_timeouts_beyond_the_brokers_limits_fail(broker: Broker) -> None:
    config = kafka_config(broker, transaction_timeout_ms=10_000_000, replication_factor=3)
    found = {finding.check: finding for finding in examine_broker(config)}
    assert found["transaction timeout"].status is Status.FAIL
    assert "transaction.max.timeout.ms" in found["transaction timeout"].found
    assert found["replication"].status is Status.FAIL


@kafka
def test_a_refused_password_is_said_so(broker: Broker, tmp_path: Path) -> None:
    if broker.sasl is None:
        pytest.skip("this broker has no listener with passwords")
    (tmp_path / "password").write_text("wrong" + PASSWORD)
    config = Kafka(
        bootstrap_servers=broker.sasl,
        security_protocol="SASL_PLAINTEXT",
        sasl_username=USER,
        sasl_password_file=str(tmp_path / "password"),
    )
    (finding,) = examine_broker(config)
    assert finding.status is Status.FAIL
    assert "refused user 'shoal'" in finding.found
    assert "kafka.sasl_*" in finding.advice
    assert PASSWORD not in f"{finding}"

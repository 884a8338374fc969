"""One run: set up, so many faults with progress after each, then every account is settled."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from broker import JarBroker
from kafka import KafkaAdminClient
from kafka_kit import create_topics, kafka_config

from shoal.stream.config import Kafka

from .auditor import CHANGES, OUTPUTS, Auditor
from .engines import STOPPED, Crew, environment
from .faults import Fault, deck
from .feeder import PLANTED, Feeder
from .field import Field, Missed
from .mirrored import Mirrored, Table, read_again
from .oracle import by_log
from .report import Done, Report
from .subscriber import Subscriber, ends, read

SECTIONS: Mapping[str, dict[str, Any]] = {
    "features": {
        "users_max": 512,
        "interest_dim": 8,
        "dedup_max": 1 << 17,
        "horizons": [
            {"name": "1h", "window_ms": 3_600_000, "tiles": 6},
            {"name": "1d", "window_ms": 86_400_000, "tiles": 6},
        ],
    },
    "encoder": {
        "dim": 6, "hidden": 16, "warmup_steps": 40, "replay_rows": 256, "batch": 32, "publish_every_rows": 200,
        "churn_budget": 1.0,
    },
    "segmenter": {"segments": 4, "warmup_rows": 60},
    "membership": {"catalog_every_rows": 500, "confirmations": 1, "margin": 0.0},
    "engine": {"step_records_max": 256, "snapshot_every_steps": 12},
}  # fmt: skip
"""Small, so that everything happens within minutes: users leave, encoders are published, segments are renamed."""
TRANSACTION_S, SESSION_S, DELIVERY_S = 1.0, 2.5, 1.5
RATE_PER_S = 250.0
_DRAIN_S = 120.0
_ORACLE_S = 600.0


class Chaos:
    """Everything of one run; `strike` as often as wanted, then `settle`."""

    def __init__(
        self, stack: ExitStack, broker: JarBroker, folder: Path, seed: int, client: str, broken: str
    ) -> None:
        self.kafka = chaos_config(broker, client)
        self.auditor = Auditor()
        self.report = Report(seed, divergences=self.auditor.divergences)
        self.chance = random.Random(seed)
        self._folder = folder
        self._crew = Crew(folder, self.kafka, SECTIONS, broken)
        stack.callback(self._crew.close)
        self._mirrored = Mirrored(seed)
        told = self.auditor.see, self._mirrored.see
        self._subscriber = Subscriber(broker.address, self.kafka.topic_prefix, *told)
        self._feeder = Feeder(self.kafka, seed, RATE_PER_S)
        self.field = Field(broker, self._crew, self._subscriber, self.auditor, self.chance, TRANSACTION_S)
        self._started_s = time.monotonic()
        self._feeder.start()
        stack.callback(self._feeder.stop)
        self.field.progress()

    def strike(self, fault: Fault) -> None:
        """Do it, and wait until a step is committed again. Raises Missed."""
        self.auditor.during = fault.name
        first_step = self.field.step
        started_s = time.monotonic()
        fault.strike(self.field)
        self.field.progress()
        self.report.done.append(Done(fault.name, first_step, time.monotonic() - started_s))

    def settle(self) -> None:
        """Let everything that was fed be worked off, stop, and audit."""
        self.auditor.during = "the end"
        self._feeder.stop()
        self._drain()
        self._stop_all()
        self._compare_with_oracle()
        self._settle_accounts()
        self._tell_facts()

    def _drain(self) -> None:
        fed = ends(self.kafka.bootstrap_servers, self.kafka.topic_prefix + self.kafka.events_topic)
        self.field.until(lambda: self.auditor.ends == fed, f"everything up to {fed} is worked off", _DRAIN_S)

    def _stop_all(self) -> None:
        with self.field.rest(*self._crew.engines):
            for engine in self._crew.engines:
                engine.signal(signal.SIGTERM)
            self.field.until(
                lambda: not any(engine.alive for engine in self._crew.engines), "the engines end when told to"
            )
        for engine in self._crew.engines:
            if engine.code not in STOPPED:
                self.auditor.fail(
                    "exits", f"{engine.name} told to stop: {engine.code}, {engine.text[-1000:]}"
                )

    def _compare_with_oracle(self) -> None:
        """Byte by byte; and what Shoal itself finds, at the same time, is asked too."""
        with self._start("shoal.stream.cli", "verify", "--from-scratch", "--config", self._config) as verify:
            self._ask_oracle()
            _, errors = verify.communicate(timeout=_ORACLE_S)
        self.auditor.expect("verify", f"shoal verify: {errors[-1000:]}", verify.returncode, 0)

    def _ask_oracle(self) -> None:
        result = self._folder / "oracle.json"
        states = [str(engine.state_dir) for engine in self._crew.engines]
        with self._start("chaos.oracle", self._config, str(result), *states) as oracle:
            _, errors = oracle.communicate(timeout=_ORACLE_S)
        if oracle.returncode:
            self.auditor.fail("bytes", f"the oracle cannot follow what was recorded: {errors[-2000:]}")
            return
        found = json.loads(result.read_text())
        names = {step: self.report.during(step) for step in range(self.auditor.step + 1)}
        self.auditor.compare(by_log(found["expected"]), names)
        for difference in found["differing"]:
            self.auditor.fail("state", difference)
        self.report.facts["snapshots compared with the oracle's state"] = found["snapshots"]
        self._compare_mirrors(found["table"])

    def _compare_mirrors(self, table: Table) -> None:
        """Of the subscriber that was there all the time, and of those that come now."""
        for difference in (*self._mirrored.differences(table), *read_again(self.kafka, table)):
            self.auditor.fail("mirrors", difference)
        self.report.facts["users whose mirrors equal the oracle's table"] = len(table)
        self.report.facts["deaths of the subscriber with a mirror"] = self._mirrored.deaths

    @property
    def _config(self) -> str:
        return str(self._folder / "a.toml")

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(hash_seed=99),
        )  # fmt: skip

    def _settle_accounts(self) -> None:
        address, prefix = self.kafka.bootstrap_servers, self.kafka.topic_prefix
        self._subscriber.stop()
        self.auditor.compare_log(read(address, prefix, OUTPUTS))
        self.auditor.settle(read(address, prefix, [self.kafka.events_topic]), self._committed(), PLANTED)

    def _committed(self) -> dict[int, int]:
        group = self.kafka.group_id
        with KafkaAdminClient(bootstrap_servers=self.kafka.bootstrap_servers) as admin:
            return {
                tp.partition: found.offset for tp, found in admin.list_group_offsets(group)[group].items()
            }

    def _tell_facts(self) -> None:
        address, prefix = self.kafka.bootstrap_servers, self.kafka.topic_prefix
        visible = sum(map(len, self.auditor.logs.values()))
        stored = sum(1 for _ in read(address, prefix, OUTPUTS, "read_uncommitted"))
        self.report.facts |= {
            "steps": self.auditor.step,
            "input records": self.auditor.counted["records"],
            "accepted": self.auditor.counted["accepted"],
            "changes": sum(len(log) for (topic, _), log in self.auditor.logs.items() if topic == CHANGES),
            "published records": visible,
            "records of aborted transactions, seen by nobody": stored - visible,
            "starts of an engine": sum(engine.lives for engine in self._crew.engines),
            "seconds": round(time.monotonic() - self._started_s),
        }


def chaos_config(broker: JarBroker, client: str) -> Kafka:
    """Topics of its own, and short timeouts, so that a takeover takes seconds."""
    return create_topics(
        kafka_config(
            broker,
            partitions=3,
            session_timeout_ms=int(SESSION_S * 1000),
            transaction_timeout_ms=int(TRANSACTION_S * 1000),
            delivery_timeout_ms=int(DELIVERY_S * 1000),
            broker_wait_s=60.0,
            client=client,
        )
    )


@contextmanager
def chaos(
    broker: JarBroker, folder: Path, seed: int, client: str = "kafka-python", broken: str = ""
) -> Iterator[Chaos]:
    """A run that leaves nothing behind but its logs."""
    with ExitStack() as stack:
        yield Chaos(stack, broker, folder, seed, client, broken)


def run(
    broker: JarBroker,
    folder: Path,
    seed: int,
    faults: int,
    client: str = "kafka-python",
    say: Callable[[str], object] = print,
) -> Report:
    """So many faults, then the audit. A fault without effect, or without progress after it, is a divergence."""
    with chaos(broker, folder, seed, client) as current:
        cards = deck(random.Random(seed))
        try:
            for number in range(1, faults + 1):
                fault = next(cards)
                current.strike(fault)
                done = current.report.done[-1]
                say(f"{number:4}  {fault.name}: after step {done.first_step}, {done.seconds:.1f} s")
            current.settle()
        except Missed as missed:
            current.auditor.fail("progress", str(missed))
    return current.report

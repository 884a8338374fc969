"""A real Prometheus scrapes a real engine: every panel has data, every alert can be evaluated.

The engine is the one that `shoal run` builds, over a live source: simulated events that arrive while the
wall clock runs, in two partitions, one of which is behind. It is stopped once and recovers.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import orjson
import pytest
import yaml
from conftest import ROOT, missing

from shoal.sinks.files import FileSink
from shoal.stream import engine as engine_module
from shoal.stream.config import Config, Http, load
from shoal.stream.engine import Engine
from shoal.stream.events import Range, Records
from shoal.stream.simulation.population import MONDAY_MS, Settings
from shoal.stream.simulation.simulator import Simulator
from shoal.stream.sources import MemorySource
from shoal.stream.watching.http import start
from shoal.stream.watching.metric_table import SERIES_MAX
from shoal.stream.watching.metrics import Metrics
from shoal.stream.wiring import build_engine

pytestmark = pytest.mark.prometheus

DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "shoal.json").read_text("utf-8"))
RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
RATE_INTERVAL = "8s"  # at a scrape interval of 1 s


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(name, "install the package `prometheus`")
    assert found is not None
    return found


# --- promtool -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_promtool_accepts_the_configuration_and_the_alerts_fire_when_they_should(
    arguments: tuple[str, ...],
) -> None:
    """`check config` also checks the rules; `test rules` runs alerts_test.yml."""
    done = subprocess.run(
        [tool("promtool"), *arguments], cwd=DEPLOY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_to_say_about_our_metrics() -> None:
    """Names, types and help texts, by `promtool check metrics`."""
    metrics = Metrics()
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=metrics.render(), capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_every_alert_is_tested() -> None:
    tested = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text("utf-8"))["tests"]
    fired = {case["alertname"] for test in tested for case in test["alert_rule_test"] if case["exp_alerts"]}
    silent = {
        case["alertname"] for test in tested for case in test["alert_rule_test"] if not case["exp_alerts"]
    }
    assert fired == silent == {rule["alert"] for rule in RULES}


# --- the engine ---------------------------------------------------------------------------------------------


class Live:
    """A source whose records arrive while the wall clock runs; partition 1 is read more slowly than it grows.

    Simulated records, each with the time of its arrival. What has arrived stays, so it can be replayed.
    """

    finite = False
    wall_clock = True
    mark = ""
    EACH_S = 400  # records arriving per second and partition

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self._coming = iter(values)
        self._log: list[list[bytes | None]] = [[], []]
        self._next = [0, 0]
        self._last_s = time.monotonic()

    def nearest(self, positions: Mapping[int, int]) -> Mapping[int, int]:
        return dict(positions)

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None]) -> bool:
        return not stopping()

    def seek(self, positions: Mapping[int, int]) -> None:
        self._next = [positions.get(p, 0) for p in (0, 1)]

    def poll(self, max_records: int, timeout_s: float) -> tuple[Records, tuple[Range, ...]]:
        time.sleep(timeout_s)  # stands for the broker's wait
        self._arrive()
        ranges = []
        for partition, log in enumerate(self._log):
            start, most = self._next[partition], max_records // (1 + 3 * partition)
            end = min(len(log), start + most)
            if end > start:
                ranges.append(Range(partition, start, end))
                self._next[partition] = end
        return self.read(ranges), tuple(ranges)

    def read(self, ranges: Sequence[Range]) -> Records:
        return MemorySource(self._log).read(ranges)

    def lag(self) -> Mapping[int, int]:
        return {p: len(log) - self._next[p] for p, log in enumerate(self._log)}

    def close(self) -> None:
        pass

    def _arrive(self) -> None:
        now_s = time.monotonic()
        count = int((now_s - self._last_s) * self.EACH_S)
        if count:
            self._last_s = now_s
        for log in self._log:
            log.extend(map(stamped, islice(self._coming, count)))


def stamped(value: bytes | None) -> bytes | None:
    """The same event at the present time; a bad record stays as bad as it is."""
    try:
        event = orjson.loads(value or b"")
        if event["event_time"] >= MONDAY_MS:
            event["event_time"] = time.time_ns() // 1_000_000
            return orjson.dumps(event)
    except (orjson.JSONDecodeError, TypeError, KeyError):
        pass
    return value


def configuration(folder: Path) -> Config:
    wanted = {
        "engine.step_records_max": 100, "engine.poll_timeout_s": 0.1, "engine.snapshot_every_steps": 5,
        "engine.state_dir": folder / "state", "segmenter.segments": 5, "segmenter.warmup_rows": 64,
        "encoder.publish_every_rows": 200, "encoder.replay_rows": 256, "features.users_max": 4096,
    }  # fmt: skip
    return load(None, [f"{key}={value}" for key, value in wanted.items()], environ={})


@contextmanager
def running(config: Config, source: Live, folder: Path, metrics: Metrics) -> Iterator[Engine]:
    """The engine on a thread of its own; stopped, and its failure raised, at the end."""
    engine = build_engine(config, (source, FileSink(folder / "out")), metrics)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            engine.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="engine", daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        engine.stop()
        thread.join(30)
        assert not thread.is_alive()
        if failures:
            raise failures[0]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus that scrapes a recovered, working engine once a second."""
    binary, folder = tool("prometheus"), tmp_path_factory.mktemp("prometheus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "QUALITY_EVERY_S", 0.5)
        config, source = configuration(folder), Live(simulated())
        with running(config, source, folder, Metrics()) as engine:
            assert wait_until(lambda: engine.steps >= 12)
        metrics = Metrics()
        server = start(Http(port=0), metrics)
        with running(config, source, folder, metrics):
            address = f"127.0.0.1:{free_port()}"
            command = [
                binary,
                f"--config.file={adapted(folder, server.port)}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                "--log.level=warn",
            ]
            process = subprocess.Popen(command)
            try:
                yield f"http://{address}"
            finally:
                process.terminate()
                process.wait(10)
                server.stop()


def simulated() -> list[bytes | None]:
    settings = Settings(
        users=400, events=40_000, corrupt=(("json", 0.01), ("user_id", 0.01)), duplicates=0.01
    )
    return [value for batch in Simulator(settings).batches() for value in batch.values]


def adapted(folder: Path, port: int) -> Path:
    """deploy/prometheus.yml with our port, a scrape per second, and the rules where they lie."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until(what: Callable[[], Any], timeout_s: float = 60.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def ask(prometheus: str, path: str, **parameters: str) -> Any:
    try:
        with urlopen(f"{prometheus}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]
    except URLError:
        return None  # not up yet


def values(prometheus: str, expression: str) -> list[float]:
    """What an instant query gives now; Prometheus' NaN is nan."""
    data = ask(prometheus, "query", query=expression)
    return [float(sample["value"][1]) for sample in data["result"]] if data else []


def panel_expressions() -> list[tuple[str, str]]:
    """(panel, expression as Grafana would send it)."""
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*"))
        for panel in DASHBOARD["panels"]
        if panel["type"] != "row"
        for target in panel["targets"]
    ]


def alert_expressions() -> list[tuple[str, str]]:
    """(alert, its expression with every comparison answering 0 or 1): silent is not the same as empty."""
    return [(rule["alert"], re.sub(r" (==|>|<) (?=[\d.])", r" \1 bool ", rule["expr"])) for rule in RULES]


def test_every_panel_shows_data_and_every_alert_can_be_evaluated(prometheus: str) -> None:
    """Not only a series: a number. An expression that Prometheus knows nothing of gives an empty list."""
    waiting = dict.fromkeys(panel_expressions() + alert_expressions())
    assert len(waiting) >= 50

    def nothing_left() -> bool:
        for where, expression in list(waiting):
            if any(map(math.isfinite, values(prometheus, expression))):
                del waiting[where, expression]
        return not waiting

    wait_until(nothing_left, 45)
    assert not waiting, "no data after 45 s"


def test_all_rules_are_loaded_and_none_fires_on_a_healthy_engine(prometheus: str) -> None:
    def loaded() -> list[dict[str, Any]]:
        data = ask(prometheus, "rules")
        return [rule for group in data["groups"] for rule in group["rules"]] if data else []

    assert wait_until(lambda: loaded() and all(rule["health"] == "ok" for rule in loaded()))
    assert {rule["name"] for rule in loaded()} == {rule["alert"] for rule in RULES}
    assert [rule["name"] for rule in loaded() if rule["state"] == "firing"] == []


def test_the_variable_of_the_dashboard_finds_the_instance(prometheus: str) -> None:
    """`label_values(shoal_build_info, instance)`, as Grafana asks for it."""
    wanted = {"match[]": "shoal_build_info"}
    assert wait_until(lambda: ask(prometheus, "label/instance/values", **wanted))
    assert len(ask(prometheus, "label/instance/values", **wanted)) == 1


def test_the_outcomes_in_prometheus_add_up_to_what_was_written(prometheus: str) -> None:
    """Coverage, seen from outside: accepted, duplicates and rejects are all there."""
    assert wait_until(lambda: values(prometheus, 'shoal_events_total{outcome="duplicate"} > 0'))
    assert wait_until(lambda: values(prometheus, "sum(shoal_rejects_total) > 0"))
    by_outcome, by_reason = (
        'sum(shoal_events_total{outcome="rejected"})',
        "sum(shoal_rejects_total)",
    )
    assert values(prometheus, f"{by_outcome} - {by_reason}") == [0.0]


def test_a_scrape_stays_within_the_promised_number_of_series(prometheus: str) -> None:
    assert wait_until(lambda: values(prometheus, 'scrape_samples_scraped{job="shoal"}'))
    assert 0 < values(prometheus, 'scrape_samples_scraped{job="shoal"}')[0] <= SERIES_MAX

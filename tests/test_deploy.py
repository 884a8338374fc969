"""What lies in deploy/ fits together, fits the program, and asks for nothing that is not there.

No container engine is needed: files are parsed, their references are followed, and the commands that the
containers would start are started here.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
import yaml
from broker import Broker
from conftest import ROOT

from shoal.stream import ports
from shoal.stream.cli import VERBS, shoal
from shoal.stream.config import SECRET_VARIABLES, Config, Http, keys, load
from shoal.stream.http import start
from shoal.stream.metric_table import METRICS
from shoal.stream.metrics import Metrics
from shoal.stream.ports import Phase, ShoalError

DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DASHBOARD = json.loads((DEPLOY / "grafana" / "shoal.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
MANIFESTS = {m["kind"]: m for m in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8"))}
RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text("utf-8")
KNOWN_VARIABLES = {key.variable for key in keys()} | set(SECRET_VARIABLES)
IMAGE_VARIABLES = {
    "PATH",
    "PYTHONUNBUFFERED",
    "NUMBA_CACHE_DIR",
    "PIP_NO_CACHE_DIR",
    "PIP_DISABLE_PIP_VERSION_CHECK",
}


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined, comments left out."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(name, arguments) for name, arguments in pairs]


def stage(last: bool = True) -> dict[str, str]:
    """The last (or first) stage's instructions by name; a repeated one's last value."""
    found = instructions()
    starts = [i for i, (name, _) in enumerate(found) if name == "FROM"]
    return dict(found[starts[-1] :] if last else found[: starts[1]])


def compose_config() -> Config:
    return load(DEPLOY / "shoal.toml", environ={})


# --- Dockerfile ---------------------------------------------------------------------------------------------


def test_images_are_pinned() -> None:
    """A version, and never `latest`, in the Dockerfile, in compose and in Kubernetes."""
    images = [arguments.split()[0] for name, arguments in instructions() if name == "FROM"]
    images += [service["image"] for service in SERVICES.values()]
    images += [c["image"] for c in MANIFESTS["Deployment"]["spec"]["template"]["spec"]["containers"]]
    for image in images:
        assert re.search(r":v?\d", image), image
        assert "latest" not in image


def test_our_image_has_the_version_of_the_package() -> None:
    ours = f"shoal:{PROJECT['project']['version']}"
    assert SERVICES["shoal"]["image"] == SERVICES["producer"]["image"] == ours
    assert MANIFESTS["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"] == ours


def test_the_process_is_not_root_and_ends_on_sigterm() -> None:
    last = stage()
    uid, gid = map(int, last["USER"].split(":"))
    assert uid >= 1000
    assert gid >= 1000
    assert last["STOPSIGNAL"] == "SIGTERM"
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")


def test_the_entry_point_is_an_installed_command() -> None:
    assert json.loads(stage()["ENTRYPOINT"]) == ["shoal"]
    assert "shoal" in PROJECT["project"]["scripts"]
    assert_parses(json.loads(stage()["CMD"]))


def copied() -> list[str]:
    found = []
    for name, arguments in instructions():
        if name == "COPY" and "--from" not in arguments:
            found += shlex.split(arguments)[:-1]
    return found


def test_everything_that_is_copied_exists_and_is_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    hidden = [line for line in lines if line and line[0] not in "!#" and line != "*"]
    assert lines[1] == "*", "everything is left out first"
    for source in copied():
        assert (ROOT / source).exists(), source
        assert source in kept
        assert not any(fnmatch(source, pattern) for pattern in hidden)


def test_everything_that_the_package_is_made_of_is_copied() -> None:
    project, setuptools = PROJECT["project"], PROJECT["tool"]["setuptools"]
    needed = {"pyproject.toml", "requirements.lock", project["readme"], *project["license-files"]}
    needed |= set(setuptools["package-dir"].values())
    assert needed == set(copied())


def test_locked_dependencies_are_checked_by_hash_and_torch_is_apart() -> None:
    run = " ".join(arguments for name, arguments in instructions() if name == "RUN")
    assert "--require-hashes -r /src/requirements.lock" in run
    assert '"$TORCH"' in run
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert not re.search(r"^torch\b", lock, re.MULTILINE)
    assert not re.search(r"https?://|--(extra-)?index-url", lock)


def test_no_variable_of_the_image_is_unknown() -> None:
    for name, arguments in instructions():
        if name == "ENV":
            for pair in shlex.split(arguments):
                variable = pair.partition("=")[0]
                assert variable in IMAGE_VARIABLES | KNOWN_VARIABLES, variable


def test_the_health_check_tells_a_live_engine_from_a_stuck_and_an_absent_one() -> None:
    """The very code of HEALTHCHECK, against our server."""
    code = json.loads(stage()["HEALTHCHECK"].partition("CMD ")[2])
    assert code[:2] == ["python", "-c"]
    now_s = [0.0]
    metrics = Metrics(clock_s=lambda: now_s[0])
    metrics.phase(Phase.RUNNING)
    server = start(Http(port=0), metrics)

    def check() -> int:
        text = code[2].replace(f":{Http().port}/", f":{server.port}/")
        assert str(server.port) in text, "the health check asks the configured port"
        return subprocess.run([sys.executable, "-c", text], capture_output=True, check=False).returncode

    try:
        assert check() == 0
        now_s[0] = 1e6
        assert check() != 0
    finally:
        server.stop()
    assert check() != 0


# --- compose ------------------------------------------------------------------------------------------------


def assert_parses(arguments: list[str]) -> None:
    """The command line accepts these arguments; nothing is run."""
    verb = shoal.get_command(shoal.make_context("shoal", ["--help"], resilient_parsing=True), arguments[0])
    assert verb is not None
    verb.make_context(arguments[0], list(arguments[1:]))


def test_the_commands_of_compose_and_kubernetes_are_ones_the_program_knows() -> None:
    assert_parses(SERVICES["shoal"]["command"])
    assert_parses(SERVICES["producer"]["command"])
    assert_parses(MANIFESTS["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"])


def test_every_port_is_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 4
    for port in published:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


def test_every_volume_exists() -> None:
    """A bind mount names a file of this folder, a named volume is declared, and none is declared in vain."""
    named = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
                assert mode == ["ro"]
            else:
                named.add(source)
    assert named == set(COMPOSE["volumes"])


def test_who_waits_for_a_healthy_service_waits_for_one_with_a_health_check() -> None:
    for name, service in SERVICES.items():
        wanted = service.get("depends_on", {})
        for other in wanted:
            assert other in SERVICES, f"{name} depends on {other}"
            if isinstance(wanted, dict) and wanted[other]["condition"] == "service_healthy":
                ours = SERVICES[other]["image"].startswith("shoal:") and "HEALTHCHECK" in stage()
                assert ours or "test" in SERVICES[other]["healthcheck"]


def test_the_engine_in_a_container_has_no_rights_it_does_not_need() -> None:
    for name in ("shoal", "producer"):
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "mem_limit" in service


def test_no_secret_and_no_unknown_setting_stands_in_compose() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|SECRET|TOKEN", variable), variable
            assert isinstance(value, str), f"{name}: {variable} would be read as {value!r}"
            assert not variable.startswith("SHOAL_") or variable in KNOWN_VARIABLES


def test_the_configuration_of_compose_meets_its_services() -> None:
    config = compose_config()
    listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{config.kafka.bootstrap_servers}," in listeners
    assert config.kafka.create_topics
    assert config.http.host == "0.0.0.0"
    assert SERVICES["shoal"]["ports"] == [f"127.0.0.1:{config.http.port}:{config.http.port}"]
    assert stage()["EXPOSE"] == str(config.http.port)
    assert config.engine.state_dir.startswith(stage()["VOLUME"] + "/")
    assert "state:" + stage()["VOLUME"] in SERVICES["shoal"]["volumes"]


def test_compose_accepts_its_file() -> None:
    """`docker compose config`, where the plug-in is installed; it needs no engine."""
    probe = ["docker", "compose", "version"]
    if shutil.which("docker") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.kafka
def test_the_commands_of_compose_work_together_on_a_real_broker(broker: Broker, tmp_path: Path) -> None:
    """Engine and producer as compose starts them, with other addresses: ready, counted, stopped cleanly."""
    executable = Path(sys.executable).with_name("shoal")
    server = start(Http(port=0), Metrics())  # finds a free port
    server.stop()
    config = f"--config={DEPLOY / 'shoal.toml'}"
    kafka = [f"--set=kafka.bootstrap_servers={broker.address}", f"--set=kafka.topic_prefix={broker.name()}-"]
    group = f"--set=kafka.group_id={broker.name('g')}"
    here = [
        f"--set=http.port={server.port}",
        "--set=http.host=127.0.0.1",
        f"--set=engine.state_dir={tmp_path}",
    ]
    assert SERVICES["shoal"]["command"] == ["run", "--config", "/etc/shoal/shoal.toml"]
    with subprocess.Popen(
        [executable, "run", config, *kafka, group, *here], stderr=subprocess.PIPE
    ) as engine:
        try:
            assert wait_for(server.url + "/readyz", engine)
            producer = [
                a for a in SERVICES["producer"]["command"] if not a.startswith(("--config", "--rate"))
            ]
            asked = [executable, *producer, config, *kafka, "--events=1000"]
            done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            assert wait_until(lambda: records(server.url) == 1000)
            engine.send_signal(signal.SIGTERM)
            assert engine.wait(30) == 0
        finally:
            engine.kill()


def wait_until(what: Any, timeout_s: float = 60.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not (true := what()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return bool(true)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> bool:
    def answers() -> bool:
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        try:
            with urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (HTTPError, URLError):
            return False

    return wait_until(answers)


def records(url: str) -> float:
    with urlopen(url + "/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("shoal_events_total{"))


# --- Kubernetes ---------------------------------------------------------------------------------------------


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_one_engine_at_a_time_in_kubernetes() -> None:
    spec = MANIFESTS["Deployment"]["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert MANIFESTS["Service"]["spec"]["selector"].items() <= labels.items()


def test_the_probes_ask_the_configured_port(tmp_path: Path) -> None:
    """And the configuration in the ConfigMap is one that the program accepts."""
    container = pod()["containers"][0]
    path = tmp_path / "shoal.toml"
    path.write_text(MANIFESTS["ConfigMap"]["data"]["shoal.toml"], "utf-8")
    config = load(path, environ={})
    assert container["ports"] == [{"name": "http", "containerPort": config.http.port}]
    assert config.http.host == "0.0.0.0", "probes come from outside the container"
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert config.engine.state_dir.startswith(mounts["state"] + "/")
    assert container["args"][-1] == mounts["config"] + "/shoal.toml"


def test_the_pod_is_not_root_and_its_volumes_exist() -> None:
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert str(spec["securityContext"]["runAsUser"]) == stage()["USER"].partition(":")[0]
    container = spec["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    claim = MANIFESTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == claim
    assert volumes["config"]["configMap"]["name"] == MANIFESTS["ConfigMap"]["metadata"]["name"]


# --- Prometheus and Grafana ---------------------------------------------------------------------------------


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of every panel and every alert."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


def names_in(expression: str) -> set[str]:
    """Names of our metrics, without the suffixes that histograms and summaries add."""
    found = set(re.findall(r"\bshoal_[a-z0-9_]+", expression))
    split = {m.name for m in METRICS if m.kind in ("histogram", "summary")}
    return {re.sub(r"_(bucket|sum|count)$", "", n) if n.rpartition("_")[0] in split else n for n in found}


def test_panels_and_alerts_ask_only_for_metrics_that_exist() -> None:
    known = {metric.name for metric in METRICS}
    for where, expression in expressions():
        assert names_in(expression) <= known, where
        assert names_in(expression) or "up{" in expression, where


def test_every_metric_has_a_panel() -> None:
    shown = set().union(*(names_in(target["expr"]) for panel in PANELS for target in panel["targets"]))
    assert {metric.name for metric in METRICS} - shown == {"shoal_process_virtual_memory_bytes"}


def test_label_values_in_expressions_can_occur() -> None:
    values = {m.name: {label: {row[i] for row in m.values} for i, label in enumerate(m.labels) if m.values != ((),)}
              for m in METRICS}  # fmt: skip
    seen = 0
    for where, expression in expressions():
        for name, selector in re.findall(r"\b(shoal_[a-z0-9_]+)\{([^}]*)\}", expression):
            for label, value in re.findall(r'(\w+)="([^"$]*)"', selector):
                assert value in values[name][label], where
                seen += 1
    assert seen >= 2


def test_the_dashboard_uses_the_provisioned_data_source() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"][0]
    wanted = {"type": "prometheus", "uid": source["uid"]}
    assert all(panel["datasource"] == wanted for panel in PANELS)
    assert all(target["datasource"] == wanted for panel in PANELS for target in panel["targets"])
    assert DASHBOARD["templating"]["list"][0]["datasource"] == wanted
    assert source["url"] == "http://prometheus:9090"
    interval = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval


def test_the_dashboard_lies_where_grafana_looks_for_it() -> None:
    folder = DEPLOY / "grafana" / "provisioning" / "dashboards"
    provider = yaml.safe_load((folder / "shoal.yml").read_text("utf-8"))["providers"][0]
    path = f"{provider['options']['path']}/shoal.json"
    assert f"./grafana/shoal.json:{path}:ro" in SERVICES["grafana"]["volumes"]
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == path


def test_no_two_panels_overlap_and_each_has_a_title_and_an_instance() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for a, b in combinations(boxes, 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y, (a, b)
        assert a["x"] + a["w"] <= 24
    for panel in PANELS:
        assert panel["title"]
        for target in panel["targets"]:
            selectors = re.findall(r"\bshoal_[a-z0-9_]+(\{[^}]*\})?", target["expr"])
            assert all('instance=~"$instance"' in selector for selector in selectors), panel["title"]


def test_prometheus_scrapes_the_engine_of_compose() -> None:
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert scrape == [
        {"job_name": "shoal", "static_configs": [{"targets": [f"shoal:{compose_config().http.port}"]}]}
    ]


# --- the runbook --------------------------------------------------------------------------------------------


def test_every_alert_has_its_section_in_the_runbook() -> None:
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)}
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"RUNBOOK.md#{rule['alert'].lower()}"
        assert rule["alert"].lower() in headings
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_exit_code_is_in_the_runbook() -> None:
    errors = [e for e in vars(ports).values() if isinstance(e, type) and issubclass(e, ShoalError)]
    assert len({error.exit_code for error in errors}) == len(errors)
    for error in errors:
        assert re.search(rf"^\| {error.exit_code} \| `{error.__name__}` \|", RUNBOOK, re.MULTILINE), error


def test_the_runbook_names_only_keys_metrics_and_verbs_that_exist() -> None:
    known_keys = {key.path for key in keys()}
    sections = "|".join(sorted({key.section for key in keys()}))
    for key in re.findall(rf"`((?:{sections})\.[a-z_]+)`", RUNBOOK):
        assert key in known_keys, key
    assert names_in(RUNBOOK) <= {metric.name for metric in METRICS}
    for verb in re.findall(r"`shoal (\w+)", RUNBOOK):
        assert verb in VERBS, verb

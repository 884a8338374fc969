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
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
import yaml
from broker import Broker
from conftest import ROOT

from shoal.stream.cli import shoal
from shoal.stream.config import SECRET_VARIABLES, Config, Http, keys, load
from shoal.stream.ports import Phase
from shoal.stream.watching.http import start
from shoal.stream.watching.metrics import Metrics

DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MANIFESTS = {m["kind"]: m for m in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8"))}
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
    images += [c["image"] for c in MANIFESTS["StatefulSet"]["spec"]["template"]["spec"]["containers"]]
    for image in images:
        assert re.search(r":v?\d", image), image
        assert "latest" not in image


def test_our_image_has_the_version_of_the_package() -> None:
    ours = f"shoal:{PROJECT['project']['version']}"
    assert SERVICES["shoal"]["image"] == SERVICES["producer"]["image"] == ours
    assert MANIFESTS["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]["image"] == ours


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


@pytest.mark.slow
def test_what_is_copied_is_enough_to_build_the_package(tmp_path: Path) -> None:
    """The build stage's last command, on a folder that holds what COPY brings, and nothing else."""
    for source in copied():
        target = tmp_path / "src" / source
        target.parent.mkdir(exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)
    build = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, *build, str(tmp_path / "src")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("shoal-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        path.relative_to(ROOT)
        for name in ("stream", "encoders", "sinks")
        for path in (ROOT / name).rglob("*.py")
    }
    assert {f"shoal/{path.as_posix()}" for path in modules} <= packed
    assert "shoal/stream/py.typed" in packed


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
    assert_parses(MANIFESTS["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]["args"])


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
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen([executable, "run", config, *kafka, group, *here], stderr=log) as engine,
    ):
        try:
            assert wait_for(server.url + "/readyz", engine), (tmp_path / "log").read_text()
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
        assert process.poll() is None, f"ended with {process.returncode}"
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
    spec: dict[str, Any] = MANIFESTS["StatefulSet"]["spec"]["template"]["spec"]
    return spec


def test_in_kubernetes_one_engine_works_and_another_stands_by_with_a_state_folder_of_its_own() -> None:
    """Started side by side: one that waited for the other to be ready would wait for ever."""
    spec = MANIFESTS["StatefulSet"]["spec"]
    assert spec["replicas"] == 2
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["serviceName"] == MANIFESTS["Service"]["metadata"]["name"]
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
    ready = container["readinessProbe"]["httpGet"]
    assert ready == {"path": "/healthz", "port": "http"}, "standing by is no reason to stop a rollout"
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
    claims = {claim["metadata"]["name"] for claim in MANIFESTS["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes) | claims
    assert claims == {"state"}
    assert volumes["config"]["configMap"]["name"] == MANIFESTS["ConfigMap"]["metadata"]["name"]

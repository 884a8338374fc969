"""A real Apache Kafka 4.1 for tests: one node, KRaft, from the official jars or in a container.

In order: SHOAL_TEST_KAFKA=host:port (somebody else's broker; it cannot be stopped or frozen), a container when
a docker engine really runs, the jars that `tests/jars/pom.xml` names (fetched by Maven once, kept in .kafka/libs).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POM = ROOT / "tests" / "jars" / "pom.xml"
LIBS = ROOT / ".kafka" / "libs"
IMAGE = "apache/kafka:4.1.0"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
START_S = 60.0

USER, PASSWORD = "shoal", "only-for-tests-9f3a"

_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.name.sasl.sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{user}="{password}";
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
num.network.threads=2
num.io.threads=4
log.flush.interval.messages=1000000
"""


class Unavailable(Exception):
    """No broker can be had here; the text says why."""


class Broker:
    """A broker that somebody else runs; the base of those that we run."""

    can_stop = False
    sasl: str | None = None  # address of a listener that wants USER and PASSWORD

    def __init__(self, address: str) -> None:
        self.address = address

    def close(self) -> None:
        """End what was started, and nothing else."""

    def name(self, what: str = "t") -> str:
        """A prefix that no other test uses."""
        return f"{what}-{uuid.uuid4().hex[:8]}."


class JarBroker(Broker):
    """The official jars in a Java process of our own; data and ports outlive stop() and start()."""

    can_stop = True

    def __init__(self, folder: Path) -> None:
        self._java = shutil.which("java")
        if self._java is None:
            raise Unavailable("no java found; install a Java 17 runtime, or set SHOAL_TEST_KAFKA=host:port")
        self._classpath = str(_jars() / "*")
        self._folder = folder
        plain, sasl, controller = _free_ports(3)
        super().__init__(f"127.0.0.1:{plain}")
        self.sasl = f"127.0.0.1:{sasl}"
        self._properties = folder / "server.properties"
        self._properties.write_text(
            _PROPERTIES.format(
                plain=plain,
                sasl=sasl,
                controller=controller,
                data=folder / "data",
                user=USER,
                password=PASSWORD,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._format()

    def _format(self) -> None:
        command = self._command("kafka.tools.StorageTool", "-Xmx64m")
        command += ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(self._properties)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"kafka storage format failed: {done.stdout}{done.stderr}")

    def _command(self, main: str, heap: str) -> list[str]:
        assert self._java is not None
        fast = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:CICompilerCount=1"]
        return [self._java, heap, *fast, "-cp", self._classpath, main]

    def start(self) -> None:
        """Start, and wait until it answers."""
        log = (self._folder / "broker.log").open("ab")
        command = [*self._command("kafka.Kafka", "-Xmx512m"), str(self._properties)]
        self._process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._folder
        )
        log.close()
        _wait_ready(self.address, lambda: self._process is not None and self._process.poll() is None)

    def stop(self) -> None:
        """An orderly stop, as for a new version of the broker."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The process is there and its port accepts, but nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            _until_stopped(self._process.pid)
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()


def _until_stopped(pid: int) -> None:
    """A signal is on its way for a while on a busy machine: wait until every thread stands still."""
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        threads = Path(f"/proc/{pid}/task").glob("*/stat")
        if all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} does not stop")


class ContainerBroker(Broker):
    """The official image; port 9092 of the container on a free port of this machine."""

    can_stop = True

    def __init__(self) -> None:
        (port,) = _free_ports(1)
        super().__init__(f"127.0.0.1:{port}")
        settings = {
            "NODE_ID": "1",
            "PROCESS_ROLES": "broker,controller",
            "CONTROLLER_QUORUM_VOTERS": "1@127.0.0.1:9093",
            "LISTENERS": "PLAINTEXT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093",
            "ADVERTISED_LISTENERS": f"PLAINTEXT://{self.address}",
            "LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "AUTO_CREATE_TOPICS_ENABLE": "false",
            "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "OFFSETS_TOPIC_NUM_PARTITIONS": "4",
            "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "TRANSACTION_STATE_LOG_NUM_PARTITIONS": "4",
            "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            "GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
            "BROKER_SESSION_TIMEOUT_MS": "1500",
            "BROKER_HEARTBEAT_INTERVAL_MS": "300",
        }
        environment = [part for key, value in settings.items() for part in ("-e", f"KAFKA_{key}={value}")]
        command = ["docker", "run", "-d", "-p", f"{self.address}:9092", *environment, IMAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"docker run {IMAGE} failed: {done.stderr.strip()}")
        self._container = done.stdout.strip()

    def _docker(self, *arguments: str) -> None:
        subprocess.run(["docker", *arguments, self._container], capture_output=True, check=True)

    def start(self) -> None:
        self._docker("start")
        _wait_ready(self.address, lambda: True)

    def stop(self) -> None:
        self._docker("stop")

    def kill(self) -> None:
        self._docker("kill")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self._docker("pause")
        try:
            yield
        finally:
            self._docker("unpause")

    def close(self) -> None:
        self._docker("rm", "-f")


def obtain(folder: Path) -> Broker:
    """A running broker. Raises Unavailable."""
    if address := os.environ.get("SHOAL_TEST_KAFKA"):
        _wait_ready(address, lambda: True)
        return Broker(address)
    broker = ContainerBroker() if _docker_runs() else JarBroker(folder)
    try:
        broker.start()
    except Unavailable:
        broker.close()
        raise
    return broker


def _docker_runs() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        return (
            subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def _jars() -> Path:
    """The folder of the jars; Maven fetches them when they are missing or the pom changed."""
    stamp, wanted = LIBS / ".pom", hashlib.sha256(POM.read_bytes()).hexdigest()
    if any(LIBS.glob("kafka_2.13-*.jar")) and (not stamp.exists() or stamp.read_text() == wanted):
        stamp.write_text(wanted)
        return LIBS
    if shutil.which("mvn") is None:
        raise Unavailable(
            "no Kafka jars and no Maven to fetch them; install Maven, or set SHOAL_TEST_KAFKA=host:port"
        )
    shutil.rmtree(LIBS, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", str(POM), COPY, f"-DoutputDirectory={LIBS}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"Maven could not fetch the Kafka jars: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    stamp.write_text(wanted)
    return LIBS


def _free_ports(count: int) -> list[int]:
    """Free ports below the range that outgoing connections use, so that a stopped broker keeps its own."""
    found: list[int] = []
    port = 15_000 + os.getpid() % 10_000
    while len(found) < count:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        port += 1
    return found


def _wait_ready(address: str, alive: object) -> None:
    """Until the broker serves metadata and groups. Raises Unavailable."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    assert callable(alive)
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and alive():
        try:
            socket.create_connection((host, int(port)), 1).close()
            with KafkaAdminClient(bootstrap_servers=address, bootstrap_timeout_ms=2000) as admin:
                if admin.describe_cluster()["brokers"]:
                    return
        except (OSError, KafkaError):
            time.sleep(0.1)
    raise Unavailable(f"the broker at {address} did not answer within {START_S:.0f} s")

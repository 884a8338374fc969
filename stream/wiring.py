"""The one place where parts are chosen and put together."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from .committing import Beside
from .config import Config, Kafka
from .engine import Engine
from .forked import ForkedStore
from .pipeline import Pipeline
from .ports import ConfigError, Observer, Phase, Probe, Publisher, Segmenter, Sink, Source, Store, no_probe
from .snapshots import DirectoryStore, NoStore

if TYPE_CHECKING:
    from .features import Features
    from .kafka.producer import PythonClient
    from .kafka.source import KafkaSource
    from .librdkafka.producer import LibrdkafkaClient
    from .librdkafka.source import LibrdkafkaSource
    from .watching.questions import Questions

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def one_thread() -> None:
    """One thread for BLAS, OpenMP and torch: spin barriers cost 2-130x on a small busy machine, and one
    thread makes results reproducible. Libraries read the variables when they are loaded; those that are
    loaded already (numpy, by the imports above) are told directly."""
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    threadpool_limits(1)


def build_pipeline(config: Config, probe: Probe = no_probe) -> Pipeline:
    from .privacy.keyfile import pseudonyms

    return Pipeline(config, *pipeline_parts(config), probe, secrets.randbits(62), pseudonyms(config))


def pipeline_parts(config: Config, features: Features | None = None) -> tuple[Features, Publisher, Segmenter]:
    """What a pipeline is made of, each part as wide as the one before it says; `features` instead of the real ones."""
    from ..encoders import make_publisher
    from .features import Features
    from .segmenter import make_segmenter

    if config.encoder.kind == "autoencoder":
        from ..encoders.autoencoder import one_thread as one_torch_thread

        one_torch_thread()
    features = features or Features(config.features)
    publisher = make_publisher(config.encoder, features.d)
    return features, publisher, make_segmenter(config.segmenter, publisher.d_out)


def build_store(config: Config) -> Store:
    if not config.engine.state_dir:
        return NoStore()
    store = DirectoryStore(Path(config.engine.state_dir), config.engine.snapshots_kept)
    return ForkedStore(store) if hasattr(os, "fork") else store


def file_ports(
    input_path: str, output: str, follow: bool = False, control: str | None = None
) -> tuple[Source, Sink]:
    """Source and sink of a run without a broker; `-` is stdin or stdout. `control`: a file of commands."""
    from ..sinks.files import FileSink, StdoutSink
    from .control.source import WithCommands
    from .sources import FileSource

    sink: Sink = StdoutSink() if output == "-" else FileSink(Path(output))
    source: Source = FileSource(input_path, follow)
    if control is not None:
        source = WithCommands(source, FileSource(control, follow))
    return source, sink


def kafka_library(
    config: Kafka,
) -> tuple[type[KafkaSource] | type[LibrdkafkaSource], type[PythonClient] | type[LibrdkafkaClient]]:
    """The source and the client of the library that `kafka.client` names. Raises ConfigError when it is missing."""
    if config.client == "kafka-python":
        from .kafka.producer import PythonClient
        from .kafka.source import KafkaSource

        return KafkaSource, PythonClient
    try:
        from .librdkafka.producer import LibrdkafkaClient
        from .librdkafka.source import LibrdkafkaSource
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'kafka.client is "{config.client}", but its library is not installed (no module {error.name}): '
            f"pip install 'shoal[confluent]', or leave kafka.client at \"kafka-python\""
        ) from None
    return LibrdkafkaSource, LibrdkafkaClient


def kafka_ports(config: Config, on_phase: Callable[[Phase], None] | None = None) -> tuple[Source, Sink]:
    """Source and sink of a run on Kafka: one consumer group, one transactional producer."""
    from ..sinks.kafka import KafkaSink

    source_of, client_of = kafka_library(config.kafka)
    source = source_of(config.kafka, on_phase)
    client = client_of(config.kafka, source.stopping)
    sink = KafkaSink(config.kafka, client, source.group_metadata, config.engine.step_bytes_max)
    return _with_commands(config.kafka, source, client), sink


def kafka_reader_ports(config: Config) -> tuple[Source, Sink]:
    """The same topics, for reading only: no group is joined, nobody is fenced."""
    from ..sinks.kafka import KafkaSink

    source_of, client_of = kafka_library(config.kafka)
    client = client_of(config.kafka)
    return _with_commands(config.kafka, source_of(config.kafka), client), KafkaSink(
        config.kafka, client, None
    )


def _with_commands(
    config: Kafka, events: KafkaSource | LibrdkafkaSource, client: PythonClient | LibrdkafkaClient
) -> Source:
    """The events, and the commands of the control topic where there is to be one."""
    from .control.source import WithCommands
    from .kafka.commands import KafkaCommands
    from .kafka.settings import control_topic

    topic = control_topic(config)
    return WithCommands(events, KafkaCommands(topic, lambda: client.log(topic))) if topic else events


def build_engine(
    config: Config,
    ports: tuple[Source, Sink],
    observer: Observer,
    fresh: int | None = None,
    questions: Questions | None = None,
) -> Engine:
    source, sink = ports
    pipeline = build_pipeline(config, observer.stage)
    store = build_store(config)
    return Engine(
        config, pipeline, source, sink, store, observer, fresh=fresh, committing=Beside(), questions=questions
    )

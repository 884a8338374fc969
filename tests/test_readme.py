"""The README's worked example is a program: its blocks run, in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from conftest import ROOT
from kafka_kit import create_topics, kafka_config, send
from shop import engine, small

from shoal.sinks.memory import MemorySink
from shoal.stream.config import Input
from shoal.stream.events import CHANGES, Records
from shoal.stream.wire import Decoder

pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="only the source tree has its README"
)


def _blocks(language: str) -> list[str]:
    section = (ROOT / "README.md").read_text().split("## From a raw event")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.S)


@pytest.mark.slow
def test_the_worked_example_runs(tmp_path):
    """From simulated events to a change with its reason, and a verified run."""
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    outputs = []
    for line in _blocks("bash")[0].strip().splitlines():
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        outputs.append(done.stdout)
    assert "the same bytes" in outputs[-1]
    done = subprocess.run(
        [sys.executable, "-c", _blocks("python")[0]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert " because user_behavior" in done.stdout or " because segment_moved" in done.stdout
    assert "segment mean" in done.stdout


def test_the_example_event_is_a_valid_event():
    """What the README shows is what the decoder accepts."""
    value = orjson.dumps(orjson.loads(_blocks("json")[0]))
    import numpy as np

    records = Records(np.zeros(1, np.int32), np.zeros(1, np.int64), [None], [value])
    events, rejects = Decoder(Input()).decode(records)
    assert (len(events), rejects) == (1, [])


@pytest.mark.kafka
def test_the_subscriber_reads_what_the_engine_writes(broker):
    """The README's subscriber, with nothing changed but address and topic, prints a committed change."""
    config = create_topics(kafka_config(broker))
    written = MemorySink()
    engine(small(), sink=written).run()
    change = next(written.published(CHANGES)).record
    send(config, [(0, change.key, change.value)], CHANGES)
    section = (ROOT / "README.md").read_text().split("A subscriber in a few lines")[1]
    code = re.findall(r"```python\n(.*?)```", section, re.S)[0]
    code = code.replace("127.0.0.1:9092", config.bootstrap_servers)
    code = code.replace('"segment.changes"', repr(config.topic_prefix + CHANGES))
    process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert change.key is not None
    assert line.startswith(f"{change.key.decode()} assigned to ")


def test_the_estimator_drops_into_a_river_pipeline():
    """The block of the speed section, as it stands."""
    section = (ROOT / "README.md").read_text().split("## Speed")[1].split("\n## ")[0]
    code = re.findall(r"```python\n(.*?)```", section, re.S)[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().isdigit()

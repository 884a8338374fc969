"""With a key configured no user id is found in anything that leaves the process: a search for planted ids."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from kafka_kit import create_topics, eventually, kafka_config, read_committed, send
from planted import found, found_in, ids, lines
from processes import engine as process
from processes import write_config
from shop import SMALL, small

from shoal.sinks.files import FileSink
from shoal.stream.cli import shoal
from shoal.stream.engine import Engine
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MANIFEST, MEMBERS, REJECTED, Reason
from shoal.stream.inspecting.overview import features, segments
from shoal.stream.privacy.checkup import user_key
from shoal.stream.privacy.keyfile import pseudonyms
from shoal.stream.snapshots import DirectoryStore
from shoal.stream.sources import FileSource
from shoal.stream.watching.api import Api, Asked
from shoal.stream.watching.metrics import Metrics
from shoal.stream.watching.page import front
from shoal.stream.wiring import build_pipeline

USERS = ids(60)
KEY = bytes(range(7, 39))
QUICK = ("segmenter.warmup_rows=60", "encoder.kind=identity", "engine.step_records_max=64")


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Every line that anybody logs, at DEBUG."""
    text = io.StringIO()
    handler, root = logging.StreamHandler(text), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s %(exc_info)s"))
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("numba").setLevel(logging.INFO)  # shows the compiler's work, by the megabyte
    yield text
    root.removeHandler(handler)
    root.setLevel(before)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with an input and a key."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "events.jsonl").write_bytes(
        b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines(USERS))
    )
    (folder / "key").write_bytes(KEY)
    return folder


def run(folder: Path, out: Path, *overrides: str) -> Metrics:
    """A whole run over files, with snapshots and everything that watches it."""
    config = small(*QUICK, "engine.snapshot_every_steps=5", *overrides)
    metrics = Metrics()
    source, sink = FileSource(str(folder / "events.jsonl")), FileSink(out / "topics")
    store = DirectoryStore(out / "state", 20)
    pipeline = build_pipeline(config, metrics.stage)
    Engine(config, pipeline, source, sink, store, metrics).run()
    asked = Asked()
    asked.questions.close()
    (out / "page.html").write_text(asyncio.run(front(Api(config.http, metrics, asked))))
    (out / "v1.json").write_bytes(orjson.dumps([segments(pipeline), features(pipeline)]))
    (out / "metrics.txt").write_bytes(metrics.render())
    return metrics


def test_no_byte_of_a_run_over_files_shows_a_planted_id(prepared, tmp_path, logged):
    """Topics, snapshots, log, metrics, page: not as text, nor in another encoding."""
    run(prepared, tmp_path, f"privacy.user_key_file={prepared / 'key'}")
    assert len(list((tmp_path / "state").iterdir())) >= 3
    topics = {path.stem: path.read_bytes() for path in (tmp_path / "topics").iterdir()}
    for topic in (CHANGES, MEMBERS, CATALOG, LINEAGE, REJECTED, MANIFEST):
        assert topics[topic], f"{topic} was not tried"
    assert found_in(tmp_path, USERS) == []
    assert found(logged.getvalue().encode(), USERS) == []


def test_the_search_finds_them_without_a_key(prepared, tmp_path):
    """Or it would prove nothing: in the topics, and in the snapshots."""
    run(prepared, tmp_path)
    where = {one.split(":")[0] for one in found_in(tmp_path, USERS)}
    assert {f"{MEMBERS}.jsonl", f"{CHANGES}.jsonl", f"{REJECTED}.jsonl"} <= where
    assert any(name.startswith("snapshot-") for name in where)


def test_every_reason_was_planted_and_keeps_what_is_no_id(prepared, tmp_path):
    """A reject still says why and where; its bytes stand at that offset of the input."""
    run(prepared, tmp_path, f"privacy.user_key_file={prepared / 'key'}")
    lines_in = (prepared / "events.jsonl").read_bytes().splitlines()
    reasons = set()
    for line in (tmp_path / "topics" / f"{REJECTED}.jsonl").read_bytes().splitlines():
        reject = json.loads(line)
        headers = dict(reject["headers"])
        assert (reject["key"], reject["value"]) == (None, None)
        assert headers["withheld"] == "privacy"
        assert headers["detail"]
        assert any(user.encode() in lines_in[int(headers["offset"])] for user in USERS)
        reasons.add(headers["reason"])
    assert reasons == {reason.value for reason in Reason} - {"tombstone"}


def test_what_is_published_is_the_same_but_for_the_names(prepared, tmp_path):
    """Segments, moves and numbers do not depend on what users are called, so nothing is lost by a key."""
    run(prepared, tmp_path / "plain")
    run(prepared, tmp_path / "named", f"privacy.user_key_file={prepared / 'key'}")
    known = pseudonyms(small(f"privacy.user_key_file={prepared / 'key'}"), {})
    for topic in (CHANGES, MEMBERS):
        plain, named = (
            [json.loads(line) for line in (tmp_path / run / "topics" / f"{topic}.jsonl").open()]
            for run in ("plain", "named")
        )
        assert len(plain) == len(named) > 60
        for one, other in zip(plain, named, strict=True):
            if one["value"] is None:
                assert other["value"] is None
                continue
            kind = one["value"]["user"]["kind"]
            assert other["value"]["user"]["kind"] == kind
            assert other["key"] == other["value"]["user"]["key"]
            name = one["key"].removeprefix("anon:" if kind == "anonymous" else "user:")
            name = known.name(("\x00" if kind == "anonymous" else "") + name).lstrip("\x00")
            assert other["key"] == ("anon:" if kind == "anonymous" else "") + name
            one["value"].pop("user"), other["value"].pop("user")
            one["value"].pop("model", 0), other["value"].pop("model", 0)
            assert one["value"] == other["value"]


def shoal_run(arguments: list[str]) -> tuple[int, str]:
    done = CliRunner().invoke(shoal, arguments)
    said = "" if done.exception is None or isinstance(done.exception, SystemExit) else str(done.exception)
    return getattr(done.exception, "exit_code", done.exit_code), done.output + said


def test_no_command_shows_an_id_and_another_key_is_refused(prepared, tmp_path, logged):
    """Summary, doctor, verify and replay of a run; the right key verifies, another one is told apart."""
    (tmp_path / "other").write_bytes(KEY[::-1])
    sets = [part for one in (*SMALL, *QUICK) for part in ("--set", one)]
    key = ["--set", f"privacy.user_key_file={prepared / 'key'}"]
    out = ["--input", str(prepared / "events.jsonl"), "--output", str(tmp_path / "out")]
    said = []
    for verb in (["run"], ["run", "--json"], ["verify", "--json"], ["replay", "--until", "3", "--json"]):
        code, text = shoal_run([*verb, *out, *sets, *key])
        assert code == 0, text
        said.append(text)
    for other, words in (
        (["--set", f"privacy.user_key_file={tmp_path / 'other'}"], "user key 1:"),
        ([*key, "--set", "privacy.user_key_version=2"], "user key 2:"),
        ([], "no user key"),
    ):
        for verb in ("run", "verify"):
            code, text = shoal_run([verb, *out, *sets, *other])
            assert code == 7, (verb, other, text)
            assert words in text
            assert "privacy.user_key_file" in text
            said.append(text)
    everything = "".join(said).encode() + logged.getvalue().encode()
    assert found(everything, USERS) == []
    assert KEY.hex().encode() not in everything
    assert found_in(tmp_path, USERS) == []


def test_another_epoch_takes_another_key_and_the_old_pseudonyms_end(prepared, tmp_path):
    """Rotation: farewells and tombstones under the old names first, then everybody under new ones."""
    (tmp_path / "other").write_bytes(KEY[::-1])
    for key, fresh in ((prepared / "key", None), (tmp_path / "other", 2)):
        config = small(*QUICK, f"privacy.user_key_file={key}", f"privacy.user_key_version={fresh or 1}")
        pipeline = build_pipeline(config)
        source = FileSource(str(prepared / "events.jsonl"))
        store = DirectoryStore(tmp_path / "state", 3)
        Engine(config, pipeline, source, FileSink(tmp_path / "t"), store, Metrics(), fresh=fresh).run()
    members = {}
    for line in (tmp_path / "t" / f"{MEMBERS}.jsonl").open():
        record = json.loads(line)
        members[record["key"]] = record["value"]
    first = [key for key in members if key.removeprefix("anon:").startswith("p1_")]
    assert len(first) == len(USERS)
    assert not any(members[key] for key in first)
    second = {key for key, value in members.items() if value is not None}
    assert all(key.removeprefix("anon:").startswith("p2_") for key in second)


def test_an_operator_asks_for_a_pseudonym(prepared):
    """By argument or by lines on stdin; without a key there are none."""
    key = ["--set", f"privacy.user_key_file={prepared / 'key'}"]
    known = pseudonyms(small(key[1]), {})
    done = CliRunner().invoke(shoal, ["pseudonym", "42", *key])
    assert done.output == known.name("42") + "\n"
    done = CliRunner().invoke(shoal, ["pseudonym", *key, "--anonymous"], input="a\nb\n")
    assert done.output == "".join(f"anon:{known.name(chr(0) + one)[1:]}\n" for one in "ab")
    assert shoal_run(["pseudonym", "42"])[0] == 2


def test_the_doctor_looks_at_the_key(prepared, tmp_path):
    """Nothing without one; a weak or public one is named, with what to do."""

    def findings(path, environ=()):
        return [(f.status.value, f.advice) for f in user_key(small(f"privacy.user_key_file={path}"), environ)]

    path = tmp_path / "key"
    assert list(user_key(small(), {})) == []
    path.write_bytes(KEY)
    path.chmod(0o600)
    assert findings(path) == [("ok", "")]
    path.chmod(0o644)
    assert findings(path) == [("warn", f"chmod o-r {path}")]
    path.write_bytes(b"x")
    ((status, advice),) = findings(path)
    assert status == "fail"
    assert "openssl rand" in advice


@pytest.mark.kafka
def test_no_record_of_a_run_on_kafka_shows_a_planted_id(broker, tmp_path, client):
    """Keys, values and headers of every topic, the log, the snapshots; the input's keys are user ids too."""
    (tmp_path / "key").write_bytes(KEY)
    kafka = kafka_config(broker)
    sections: dict[str, dict[str, object]] = {"privacy": {"user_key_file": str(tmp_path / "key")}}
    for one in (*SMALL, *QUICK, "engine.snapshot_every_steps=2"):
        section, name, value = re.fullmatch(r"(\w+)\.(\w+)=(.+)", one).groups()
        sections.setdefault(section, {})[name] = json.loads(value) if value[0].isdigit() else value
    sections["engine"]["state_dir"] = str(tmp_path / "state")
    config = write_config(tmp_path / "shoal.toml", kafka, **sections)
    create_topics(kafka)
    values = list(lines(USERS))
    send(kafka, [(i % 2, USERS[i % len(USERS)].encode(), value) for i, value in enumerate(values)])

    def taken() -> int:
        return sum(json.loads(r.value)["counts"]["records"] for r in read_committed(kafka, MANIFEST))

    with process(config, tmp_path / "log") as running:
        eventually(lambda: taken() == len(values) or running.must_run(), 60.0)
        running.signal(signal.SIGTERM)
        assert running.ends() == 0
    for topic in (CHANGES, MEMBERS, CATALOG, LINEAGE, REJECTED, MANIFEST):
        records = read_committed(kafka, topic)
        assert records, f"{topic} was not tried"
        for r in records:
            parts = [r.key or b"", r.value or b"", *(value for _, value in r.headers or ())]
            assert found(b"\n".join(parts), USERS) == [], topic
    assert found_in(tmp_path, USERS) == []

"""shoal replay: the state of the past is the state of then, whichever way it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from shop import SMALL, engine, events, small
from test_output_schemas import check

from shoal.sinks.files import FileSink
from shoal.sinks.memory import MemorySink
from shoal.stream import cli
from shoal.stream.auditing.kept import KeptSnapshots, differences
from shoal.stream.auditing.past import Past, find, parse_until
from shoal.stream.config import Config
from shoal.stream.events import MANIFEST, Manifest, OutRecord
from shoal.stream.manifest import decode_manifest, encode_manifest
from shoal.stream.ports import InputError, ReplayMismatch, SourceGone, StateMismatch, Store
from shoal.stream.snapshots import DirectoryStore, NoStore
from shoal.stream.sources import FileSource, MemorySource
from shoal.stream.wiring import build_pipeline

EVERY_3 = "engine.snapshot_every_steps=3"


def test_publications_are_in_the_manifests_and_replay_exactly(whole):
    """Every attempt, published or refused, with its version and churn; computed again they are the same."""
    for budget in ("1.0", "0.0"):
        wild = "encoder.learning_rate=1e-3" if budget == "1.0" else "encoder.learning_rate=0.1"
        config = small(f"encoder.churn_budget={budget}", wild)
        sink = whole if budget == "1.0" else MemorySink()
        if sink is not whole:
            engine(config, sink=sink).run()
        manifests = list(sink.manifests())
        named = [m.publication for m in manifests if m.publication]
        assert {bool(one["published"]) for one in named} >= {budget == "1.0"}
        version = 1
        for manifest in manifests:
            check(OutRecord(MANIFEST, b"", encode_manifest(manifest)))
            assert decode_manifest(encode_manifest(manifest)) == manifest
            if manifest.publication:
                version += manifest.publication["published"]
                assert manifest.publication["version"] == version
                assert (manifest.publication["churn"] <= float(budget)) == manifest.publication["published"]
        again = MemorySink()
        engine(config, sink=again).run()
        assert [m.publication for m in again.manifests()] == [m.publication for m in manifests]
        past(
            sink, str(manifests[-1].step), config=config
        )  # recorded steps computed again, every hash compared


def test_a_manifest_without_an_attempt_says_nothing_of_one(whole):
    """So manifests from before there was such a word are the same bytes, and keep their hash."""
    quiet = [m for m in whole.manifests() if m.publication is None]
    assert quiet
    assert all(b"publication" not in encode_manifest(manifest) for manifest in quiet)


@pytest.fixture(scope="module")
def whole() -> MemorySink:
    """An uninterrupted run of seventeen steps."""
    sink = MemorySink()
    engine(small(), sink=sink).run()
    return sink


def past(sink: MemorySink, until: str, store: Store | None = None, config: Config | None = None) -> Past:
    config = config or small()
    ports = (MemorySource([events()]), sink, store or NoStore())
    there = Past(config, build_pipeline(config), ports, lambda step: None)
    there.go_to(find(sink, *parse_until(until)))
    return there


def stopped_after(step: int):
    """An engine that was really there."""
    running = engine(small(), sink=MemorySink())
    step_before, running._close = running._step, lambda: None  # type: ignore[method-assign]

    def step_and_stop(*args: object, **named: object) -> None:
        step_before(*args, **named)  # type: ignore[arg-type]
        if running.steps == step:
            running.stop()

    running._step = step_and_stop  # type: ignore[method-assign]
    running.run()
    return running


@pytest.mark.parametrize("step", [1, 7, 16])
def test_the_state_of_a_step_is_what_an_engine_had_that_stopped_there(whole, step):
    """Every array, every number: the whole state."""
    there, then = past(whole, str(step)), stopped_after(step)
    assert (there.steps, there.replayed) == (step, step)
    assert list(differences(there._state(), then._state())) == []
    assert list(differences(there._state(), past(whole, str(step + 1))._state())) != []


def test_it_starts_from_the_newest_snapshot_that_is_not_past_the_step(whole, tmp_path):
    """So the recent past is near; and it is the same state as from the beginning."""
    config = small(EVERY_3)
    engine(config, sink=MemorySink(), store=DirectoryStore(tmp_path, kept=4)).run()
    before = sorted(path.name for path in tmp_path.iterdir())
    there = past(whole, "11", KeptSnapshots(tmp_path), config)
    assert (there.steps, there.replayed) == (11, 2)
    assert list(differences(there._state(), past(whole, "11")._state())) == []
    past(whole, "12", KeptSnapshots(tmp_path), config)
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "looking leaves no trace"


def text(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()


@pytest.mark.parametrize("write", [text, str, lambda ms: text(ms).replace("+00:00", "Z")])
@pytest.mark.parametrize(("index", "shift_ms"), [(4, 0), (4, 1), (9, -1), (16, 10**9)])
def test_a_time_means_the_last_step_whose_watermark_is_not_past_it(whole, write: Callable, index, shift_ms):
    """RFC 3339 or milliseconds; a step that knows a later time is not in that past."""
    manifests = list(whole.manifests())
    time_ms = manifests[index].watermark_ms + shift_ms
    wanted = max(m.step for m in manifests if m.watermark_ms <= time_ms)
    assert find(whole, *parse_until(write(time_ms))).step == wanted


def test_numbers_are_steps_until_they_can_only_be_times():
    """Nobody has a hundred thousand million steps."""
    assert parse_until("200") == (200, None)
    assert parse_until("1700000000000") == (None, 1_700_000_000_000)
    assert (
        parse_until("2023-11-14T22:13:20Z") == parse_until("2023-11-14T22:13:20") == (None, 1_700_000_000_000)
    )
    for wrong in ("yesterday", "-3", "1.5", ""):
        with pytest.raises(InputError, match="wanted a step"):
            parse_until(wrong)


def test_a_step_without_any_time_is_in_nobodys_past(whole):
    """A first step of rejects knows no time yet: its watermark is 0, not 1970."""
    sink = MemorySink()
    first, *rest = whole.manifests()
    sink._manifests = [replace(first, watermark_ms=0), *rest]
    before = rest[0].watermark_ms - 1
    with pytest.raises(InputError, match="before the beginning; stream time begins at 20"):
        find(sink, None, before)
    assert find(sink, None, rest[0].watermark_ms).step == 2


def test_what_cannot_be_rebuilt_is_said_with_its_reason(whole):
    """Not recorded yet, never recorded, gone, made by another configuration, or different."""
    for until in ("18", "0"):
        with pytest.raises(InputError, match="steps 1 to 17 are recorded"):
            past(whole, until)
    with pytest.raises(InputError, match="no recorded step"):
        past(MemorySink(), "1")
    with pytest.raises(StateMismatch, match="same --config"):
        past(whole, "5", config=small("segmenter.step=0.05"))
    sink = MemorySink()
    manifests: list[Manifest] = list(whole.manifests())
    sink._manifests = [replace(m, state_hash="f" * 32) if m.step == 5 else m for m in manifests]
    with pytest.raises(ReplayMismatch, match=r"^step 5 .*state_hash"):
        past(sink, "9")
    sink._manifests = manifests[3:]
    with pytest.raises(SourceGone, match="the manifest of step 2 is gone, the next one is of step 4"):
        past(sink, "2")
    with pytest.raises(SourceGone, match="steps 1 to 3 are gone"):
        past(sink, "9")


def test_a_state_of_the_past_can_be_kept_and_gone_on_from(whole, tmp_path):
    """It is a snapshot like an engine's: who starts with it computes the rest the same."""
    past(whole, "9").keep(tmp_path / "then")
    ((step, _, state),) = KeptSnapshots(tmp_path / "then").newest(99)
    assert step == 9
    again = MemorySink()
    again._manifests = list(whole.manifests())
    running = engine(small(), sink=again, store=DirectoryStore(tmp_path / "then", kept=1))
    running.catch_up(list(whole.manifests())[-1])
    assert running.steps == 17
    assert list(differences(state, past(whole, "9")._state())) == []


def test_a_folder_with_snapshots_is_never_written_to(whole, tmp_path):
    """It may be an engine's, and a store removes what is later than what it saves."""
    engine(small(EVERY_3), sink=MemorySink(), store=DirectoryStore(tmp_path, kept=4)).run()
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="name a new folder"):
        past(whole, "9").keep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over files."""
    path = tmp_path_factory.mktemp("files")
    (path / "events.jsonl").write_bytes(b"\n".join(value or b"" for value in events()) + b"\n")
    engine(small(), FileSource(str(path / "events.jsonl")), FileSink(path / "out")).run()
    return path


def main(folder: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    flags = [part for key in SMALL for part in ("--set", key)]
    where = ["--input", str(folder / "events.jsonl"), "--output", str(folder / "out")]
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", *where, *flags, *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_the_command_shows_the_state_of_then(folder, capsys, whole):
    """Step, stream time, positions, versions, hashes, and the segments as every other verb shows them."""
    code, out, _ = main(folder, "--until", "9", "--json", capsys=capsys)
    assert code == 0
    body = orjson.loads(out)
    wanted = list(whole.manifests())[8]
    assert (body["step"], body["epoch"], body["replayed"]) == (9, 1, 9)
    assert (body["state_hash"], body["watermark_ms"]) == (wanted.state_hash, wanted.watermark_ms)
    assert body["positions"] == {"0": 9 * 256}
    assert body["records"] == 9 * 256
    assert body["versions"] == dict(wanted.versions)
    there = past(whole, "9")
    assert {s["segment_id"]: s["users"] for s in body["segments"]} == there.pipeline.membership.sizes()
    code, out, _ = main(folder, "--until", "9", capsys=capsys)
    assert code == 0
    for said in (
        "Step 9 of epoch 1",
        wanted.state_hash,
        "0: 2,304 (partition: next offset)",
        "in 4 segments",
    ):
        assert said in out


def test_the_command_keeps_the_state_where_it_is_told_to(folder, tmp_path, capsys):
    """And says where."""
    code, out, _ = main(folder, "--until", "9", "--state", str(tmp_path / "then"), capsys=capsys)
    assert code == 0
    assert f"The state lies in {tmp_path / 'then'}" in out
    assert [step for step, _, _ in KeptSnapshots(tmp_path / "then").newest(99)] == [9]


@pytest.mark.parametrize(
    ("until", "code", "said"),
    [
        ("99", 10, "steps 1 to 17 are recorded"),
        ("soon", 10, "wanted a step"),
        ("2001-01-01T00:00:00Z", 10, "before"),
    ],
)
def test_the_command_says_what_is_wrong_with_until(folder, capsys, until, code, said):
    """One line, and the exit code of an argument that cannot be used."""
    found, _, err = main(folder, "--until", until, capsys=capsys)
    assert found == code
    assert said in err
    assert "Traceback" not in err

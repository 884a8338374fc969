"""Following the topic files of a run: step by step, never beyond a commit; `shoal subscribe` and the example."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import ROOT
from mirrors import held, table
from processes import SHOAL
from shop import engine, events, small

from shoal.sinks.files import FileSink
from shoal.stream.commands import subscribe
from shoal.stream.events import CHANGES, MANIFEST, MEMBERS
from shoal.stream.pipeline import Pipeline
from shoal.stream.ports import ConfigError, InputError
from shoal.stream.sources import MemorySource
from shoal.stream.subscribing import FileReader, Record, SegmentMirror
from shoal.stream.subscribing.words import change_line

Run = tuple[Path, Pipeline]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return folder, write(folder, 3000)


def write(folder: Path, count: int, close: bool = True) -> Pipeline:
    """A run over the first `count` events; a later one with more of them goes on."""
    made = engine(small(), MemorySource([events()[:count]]), FileSink(folder))
    if not close:
        made._close = lambda: None  # type: ignore[method-assign]
    made.run()
    return made.pipeline


def followed(folder: Path, mirror: SegmentMirror | None = None, **options: Any) -> SegmentMirror:
    mirror = mirror or SegmentMirror()
    for _ in mirror.follow(FileReader(folder, **options)):
        pass
    return mirror


@pytest.mark.parametrize("options", [{}, {"from_now": True}, {"topics": (MEMBERS,)}], ids=str)
def test_the_mirror_of_a_folder_is_the_engines_table(run: Run, options: dict[str, Any]) -> None:
    folder, pipeline = run
    mirror = followed(folder, **options)
    assert held(mirror) == table(pipeline)
    assert mirror.epoch == 1
    if "topics" not in options:
        assert set(mirror.segments) == set(mirror.sizes)


def test_whenever_it_is_asked_for_more_the_mirror_is_at_the_end_of_a_step(run: Run) -> None:
    """Batches are steps: at each, sizes are those of a fold up to this manifest."""
    folder, _ = run
    reader, mirror = FileReader(folder), SegmentMirror()
    reader.start({})
    steps = 0
    while (records := reader.poll()) is not None:
        for record in records:
            mirror.take(record)
        steps += 1
        assert records[-1].topic == MANIFEST
        assert mirror.step == steps
    assert steps > 10


def test_a_mirror_goes_on_where_it_was_saved_wherever_that_was(run: Run) -> None:
    """Also in the middle of a step, and every change is told once."""
    folder, pipeline = run
    whole = [change.sequence for change in SegmentMirror().follow(FileReader(folder))]
    mirror, told = SegmentMirror(), []
    for limit in (1, 7, 30, 1, 10**9):
        for number, change in enumerate(mirror.follow(FileReader(folder)), 1):
            told.append(change.sequence)
            if number == limit:
                break
        mirror = SegmentMirror.restore(mirror.snapshot())
    assert told == whole
    assert held(mirror) == table(pipeline)
    assert mirror.counts.gaps == 0


def test_what_is_not_committed_is_not_read(run: Run, tmp_path: Path) -> None:
    """The tail of a process that was killed; a torn line; a torn manifest."""
    shutil.copytree(run[0], tmp_path / "run")
    before = followed(tmp_path / "run")
    for topic in (CHANGES, MEMBERS, MANIFEST):
        path = tmp_path / "run" / f"{topic}.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        with path.open("ab") as file:
            file.write(lines[0] if topic != MANIFEST else lines[-1][:-20])
    assert held(followed(tmp_path / "run")) == held(before)
    assert held(followed(tmp_path / "run", from_now=True)) == held(before)


def test_it_follows_a_run_that_goes_on(tmp_path: Path) -> None:
    """Waits at the end; what comes later is read from where it stood."""
    pauses = 0

    def next_part(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses in (1, 2):
            write(tmp_path / "run", (1500, 3000)[pauses - 1], close=False)

    mirror = followed(tmp_path / "run", follow=True, sleep=next_part, stopping=lambda: pauses > 3)
    assert held(mirror) == table(write(tmp_path / "run", 3000, close=False))
    assert mirror.counts.duplicates == 0


def test_a_folder_without_a_step_and_another_run_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no committed step"):
        followed(tmp_path)
    with pytest.raises(InputError, match="holds no committed step"):
        followed(tmp_path / "nowhere")
    ahead = followed(run[0])
    write(tmp_path / "other", 700, close=False)
    with pytest.raises(InputError, match=rf"has seen step {ahead.step}"):
        followed(tmp_path / "other", ahead)
    shutil.copytree(run[0], tmp_path / "cut")
    (tmp_path / "cut" / f"{CHANGES}.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match="cut or replaced"):
        followed(tmp_path / "cut")


def test_a_mirror_of_kafka_is_not_taken_on_in_a_folder_nor_the_other_way_round(run: Run) -> None:
    """Positions mean something else there."""
    from shoal.stream.config import Kafka
    from shoal.stream.subscribing.kafka_reader import KafkaReader

    with pytest.raises(InputError, match="has followed Kafka"):
        FileReader(run[0]).start({CHANGES: {0: 5}})
    with pytest.raises(InputError, match="has followed a folder"):
        list(followed(run[0]).follow(KafkaReader(Kafka())))


def test_records_lost_from_the_changes_are_healed_from_the_members(run: Run) -> None:
    """A reader that drops two of three changes: the table at the end is exact, and said to have had gaps."""

    class Forgetful(FileReader):
        def poll(self) -> list[Record] | None:
            found = super().poll()
            return found and [r for r in found if r.topic != CHANGES or r.offset % 3 == 0]

    mirror = SegmentMirror()
    list(mirror.follow(Forgetful(run[0])))
    assert mirror.counts.gaps
    list(mirror.heal(members(run[0])))
    assert held(mirror) == table(run[1])


def members(folder: Path) -> Iterator[Record]:
    reader = FileReader(folder)
    reader.start({})
    return reader.members()


# --- the command ------------------------------------------------------------------------------------------------


def subscribed(*arguments: object) -> Result:
    return CliRunner().invoke(
        subscribe.command, [*map(str, arguments), "--exit-at-end"], catch_exceptions=False
    )


def test_changes_come_as_lines_for_people(run: Run) -> None:
    done = subscribed("--input", run[0])
    lines = done.stdout.splitlines()
    changes = list(SegmentMirror().follow(FileReader(run[0])))
    assert lines == [change_line(change) for change in changes]
    assert done.exit_code == 0
    pattern = r"\d\d:\d\d:\d\d  (user )?\S+: .+ -> .+  \((user_behavior|segment_moved|encoder_published|expiry), .*\)"
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert f"{len(lines)} changes seen" in done.stderr.replace(",", "")


def test_changes_and_members_come_as_json(run: Run) -> None:
    done = subscribed("--input", run[0], "--json", "--members")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    changes = [one for one in found if "transition" in one]
    members = {one["user"]: one["place"]["segment_id"] for one in found if "place" in one}
    assert len(changes) + len(members) == len(found)
    assert members == {key: row[0] for key, row in table(run[1]).items()}


def test_one_segment_is_followed(run: Run) -> None:
    """Who enters it, who leaves it, who is in it."""
    segment = next(iter(followed(run[0]).sizes))
    found = [
        json.loads(line)
        for line in subscribed("--input", run[0], "--json", "--segment", segment).stdout.splitlines()
    ]
    assert found
    for one in found:
        assert segment in {side["segment_id"] for side in (one["before"], one["after"]) if side}
    now = subscribed("--input", run[0], "--json", "--segment", segment, "--members", "--from", "now")
    assert {json.loads(line)["place"]["segment_id"] for line in now.stdout.splitlines()} == {segment}


def test_with_a_state_file_the_next_call_goes_on(tmp_path: Path) -> None:
    state = tmp_path / "state"
    write(tmp_path / "run", 1500, close=False)
    first = subscribed("--input", tmp_path / "run", "--state", state).stdout
    assert subscribed("--input", tmp_path / "run", "--state", state).stdout == ""
    write(tmp_path / "run", 3000)
    second = subscribed("--input", tmp_path / "run", "--state", state).stdout
    assert first
    assert second
    assert first + second == subscribed("--input", tmp_path / "run").stdout
    state.write_text("{}")
    with pytest.raises(InputError, match="not a mirror's snapshot"):
        subscribed("--input", tmp_path / "run", "--state", state)


def test_options_that_contradict_each_other_are_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        subscribed("--input", run[0], "--bootstrap-servers", "127.0.0.1:1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_ends_it_with_code_0(run: Run, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*SHOAL, "subscribe", "--input", str(run[0])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "users in" in errors


def test_the_live_table_shows_segments_and_the_latest_changes(run: Run) -> None:
    from rich.console import Console

    mirror = followed(run[0])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(subscribe._render(mirror, ["the latest change"]))
    shown = console.export_text()
    assert all(segment.name in shown for segment in mirror.segments.values())
    assert "the latest change" in shown


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="only the source tree has its README")
def test_the_readmes_mirror_runs(run: Run) -> None:
    """The block as it stands, beside a folder `run`."""
    section = (ROOT / "README.md").read_text().split("## Subscribe")[1].split("\n## ")[0]
    code = re.findall(r"```python\n(.*?)```", section, re.S)[0]
    done = subprocess.run(
        [sys.executable, "-c", code.replace('"run"', repr(str(run[0])))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(dict(followed(run[0]).sizes)) in done.stdout


# --- what is shown to people ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "deploy").exists(), reason="only the source tree has the example")
def test_the_example_greets_everybody_once_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    write(tmp_path / "run", 1500, close=False)
    first = example(tmp_path)
    write(tmp_path / "run", 3000)
    second, third = example(tmp_path), example(tmp_path)
    greeted = [line for line in (first + second).splitlines() if line.startswith("hello ")]
    entered = [
        c
        for c in SegmentMirror().follow(FileReader(tmp_path / "run"))
        if c.after and c.transition != "remapped"
    ]
    assert len(greeted) == len(entered)
    assert not third.startswith("hello")
    assert third == f"{len(followed(tmp_path / 'run').members)} users in 4 segments\n"


def example(folder: Path) -> str:
    script = ROOT / "deploy" / "examples" / "subscriber.py"
    done = subprocess.run(
        [sys.executable, str(script), "run"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

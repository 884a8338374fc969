"""shoal inspect: what it says to people and to programs, from files, snapshots and a running engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from living import living
from shop import SMALL, engine, events, small

from shoal.sinks.files import FileSink
from shoal.stream import cli
from shoal.stream.events import CHANGES, LINEAGE
from shoal.stream.inspecting import text
from shoal.stream.snapshots import DirectoryStore
from shoal.stream.sources import FileSource

LIVELY = ("engine.snapshot_every_steps=5", "membership.margin=0", "membership.confirmations=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over files, with snapshots of steps 10 and 15 of 17."""
    path = tmp_path_factory.mktemp("files")
    (path / "events.jsonl").write_bytes(b"\n".join(value or b"" for value in events()) + b"\n")
    source, store = FileSource(str(path / "events.jsonl")), DirectoryStore(path / "state", kept=2)
    engine(small(*LIVELY), source, FileSink(path / "out"), store).run()
    return path


def values(folder: Path, topic: str) -> list[dict[str, Any]]:
    lines = (folder / "out" / f"{topic}.jsonl").read_bytes().splitlines()
    return [orjson.loads(line)["value"] for line in lines]


@pytest.fixture(scope="module")
def key(folder: Path) -> str:
    keys = [change["user"]["key"] for change in values(folder, CHANGES)]
    return max(sorted(set(keys)), key=keys.count)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def files(folder: Path, *without: str) -> list[str]:
    flags = [part for setting in (*SMALL, *LIVELY) for part in ("--set", setting)]
    flags += ["--set", f"engine.state_dir={folder / 'state'}"]
    flags += [] if "input" in without else ["--input", str(folder / "events.jsonl")]
    return [*flags, "--output", str(folder / "out")]


def test_a_user_is_a_story_with_its_numbers_and_its_history(folder, key, capsys):
    """Where, since when, from where, why; and every change, newest first."""
    code, out, _ = run(capsys, "user", key, *files(folder))
    assert code == 0
    own = [change for change in values(folder, CHANGES) if change["user"]["key"] == key]
    last = own[-1]
    assert f"User {key}   (as of step 17, " in out
    assert f"In '{last['to']['name']}' ({last['to']['segment_id']}) since " in out.replace("\n", " ")
    assert f"History ({len(own)} changes; newest first)" in out
    assert out.count("assigned  ") == 1
    for said in (
        "how sure",
        "seen ",
        "What it does",
        "Nearest segments",
        "its own",
        "Unlike everybody, as of now:",
        "turns to",
    ):
        assert said in out
    assert max(map(len, out.splitlines())) <= 130


def test_the_same_as_json_is_what_was_published_and_what_is_known(folder, key, capsys):
    """The history is the topic's own values."""
    code, out, _ = run(capsys, "user", key, *files(folder), "--json")
    body = orjson.loads(out)
    own = [change for change in values(folder, CHANGES) if change["user"]["key"] == key]
    assert (code, body["history"]) == (0, own)
    place = body["portrait"]["segment"]
    assert (place["segment_id"], place["sequence"]) == (
        own[-1]["to"]["segment_id"],
        own[-1]["position"]["sequence"],
    )
    assert body["as_of"]["step"] == 17


def test_until_shows_what_was_known_then(folder, key, capsys):
    """No change that came later."""
    own = [change for change in values(folder, CHANGES) if change["user"]["key"] == key]
    code, out, _ = run(capsys, "user", key, *files(folder), "--until", "6", "--json")
    body = orjson.loads(out)
    assert (code, body["as_of"]["step"]) == (0, 6)
    assert body["history"] == own[: len(body["history"])]
    assert len(body["history"]) < len(own)
    assert body["history"][-1]["to"]["segment_id"] == body["portrait"]["segment"]["segment_id"]


def test_a_check_says_what_agrees_and_a_tampered_record_is_found(folder, key, capsys, tmp_path):
    """Exit code 0 with how many; 6 with the place of the first difference."""
    code, out, _ = run(capsys, "user", key, *files(folder), "--check", "--from-scratch")
    own = [change for change in values(folder, CHANGES) if change["user"]["key"] == key]
    assert code == 0
    assert f"from the beginning to step 17: {len(own)} changes of this user, the same bytes" in out
    code, out, _ = run(capsys, "user", key, *files(folder), "--check", "--json")
    found = orjson.loads(out)["check"]
    assert (found["from_step"], found["agree"] + found["earlier"]) == (10, len(own))
    spoilt = tmp_path / "out"
    spoilt.mkdir()
    lines: list[bytes] = []
    for path in (folder / "out").glob("*.jsonl"):
        body = path.read_bytes()
        if path.stem == CHANGES:
            lines = body.splitlines(keepends=True)
            at = max(i for i, line in enumerate(lines) if f'"key":"{key}"'.encode() in line)
            lines[at] = lines[at].replace(b'"user_shift":', b'"user_SHIFT":')
            body = b"".join(lines)
        (spoilt / path.name).write_bytes(body)
    where = [str(spoilt) if part == str(folder / "out") else part for part in files(folder)]
    code, _, err = run(capsys, "user", key, *where, "--check")
    assert code == 6
    assert f"{CHANGES} partition 0 offset {at}: not the value (reason) of the change of this user" in err


def test_from_a_snapshot_alone_without_the_input(folder, key, capsys):
    """As of the snapshot's step; what was published is all there."""
    own = [change for change in values(folder, CHANGES) if change["user"]["key"] == key]
    code, out, _ = run(capsys, "user", key, *files(folder, "input"), "--json")
    body = orjson.loads(out)
    assert (code, body["as_of"]["step"]) == (0, 15)
    assert len(body["history"]) <= len(own)
    flags = [part for setting in SMALL for part in ("--set", setting)]
    code, out, _ = run(capsys, "user", key, *flags, "--output", str(folder / "out"), "--json")
    body = orjson.loads(out)
    assert (body["portrait"], body["history"]) == (None, own)
    code, out, _ = run(capsys, "user", key, *flags, "--output", str(folder / "out"))
    assert "Not kept now" in out
    code, _, err = run(capsys, "segments", *flags, "--output", str(folder / "out"))
    assert code == 2
    assert "no snapshot is at hand" in err


def test_segments_features_and_lineage(folder, capsys):
    """As text and as JSON."""
    code, out, _ = run(capsys, "segments", *files(folder), "--json")
    found = orjson.loads(out)
    assert (code, found["total"]) == (0, len(found["segments"]))
    _, shown, _ = run(capsys, "segments", *files(folder))
    for profile in found["segments"]:
        assert f"{profile['segment_id']:>4}  {profile['size']:>7,}  " in shown
    one = found["segments"][0]
    _, out, _ = run(capsys, "segment", str(one["segment_id"]), *files(folder), "--json")
    assert orjson.loads(out) == {"as_of": found["as_of"], **one}
    _, out, _ = run(capsys, "segment", str(one["segment_id"]), *files(folder))
    assert out.startswith(f"Segment {one['segment_id']}: {one['name']}")
    _, out, _ = run(capsys, "features", *files(folder))
    assert "purchase_count_7d" in out
    assert "8 columns of interest" in out
    _, out, _ = run(capsys, "lineage", *files(folder), "--json")
    assert orjson.loads(out)["lineage"] == values(folder, LINEAGE)
    _, out, _ = run(capsys, "lineage", *files(folder))
    assert out.count(" birth ") == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("user", "nobody"), 1, "nothing is known of a user"),
        (("segment", "99999"), 1, "there is no segment 99999 now"),
        (("user", "x", "--url", "http://127.0.0.1:1"), 2, "--url asks an engine"),
        (("user", "x", "--until", "99"), 10, "steps 1 to 17 are recorded"),
        (("user", "x", "--snapshot", "--check"), 2, "--check computes steps again"),
    ],
)
def test_what_cannot_be_shown_is_said(folder, capsys, arguments, code, said):
    """One line and an exit code."""
    found, _, err = run(capsys, *arguments, *files(folder))
    assert found == code
    assert said in err
    assert "Traceback" not in err


def test_an_address_where_nobody_answers_is_said(capsys):
    """And one that is none."""
    code, _, err = run(capsys, "segments", "--url", "http://127.0.0.1:1")
    assert (code, "no answer" in err) == (10, True)
    code, _, err = run(capsys, "segments", "--url", "127.0.0.1:9108")
    assert (code, "wanted the address" in err) == (2, True)


def test_a_running_engine_can_be_asked(capsys):
    """The same text, the same members, over HTTP; an anonymous id becomes its key."""
    with living(small(*LIVELY, "time.idle_step_ms=600000")) as here:
        keys = [r.key.decode() for r in here.sink.records if r.topic == CHANGES]
        known = max(sorted(set(keys)), key=keys.count)
        code, out, _ = run(capsys, "user", known, "--url", here.url)
        assert code == 0
        for said in (f"User {known}", "since ", "Unlike everybody", "History (1 changes; newest first)"):
            assert said in out
        _, out, _ = run(capsys, "segments", "--url", here.url, "--json")
        assert orjson.loads(out)["total"] == 4
        assert run(capsys, "segment", "99999", "--url", here.url)[0] == 1
        assert "purchase_count_7d" in run(capsys, "features", "--url", here.url)[1]
        assert run(capsys, "lineage", "--url", here.url)[1].count(" birth ") == 4
        code, _, err = run(capsys, "user", "nobody", "--anonymous", "--url", here.url)
        assert (code, "'anon:nobody'" in err) == (1, True)


def test_nothing_yet_is_said_in_words():
    """Before the first segments."""
    assert text.segments({"segments": [], "total": 0, "users": 0}) == "No segments yet."
    assert text.lineage([]) == "No segment has come to be yet."

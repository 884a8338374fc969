"""The command line as a stranger meets it: one clear message, an exit code of its own, never a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from kafka_kit import eventually

from shoal.stream import cli
from shoal.stream.commands.demo import prepare
from shoal.stream.events import Counts
from shoal.stream.watching.summary import rejects_text

SHOAL = [sys.executable, "-m", "shoal.stream.cli"]
FAST = ("--set", "encoder.kind=identity", "--set", "segmenter.warmup_rows=8", "--set", "segmenter.segments=2")


def _main(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The verb in this process: its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    code = end.value.code
    return code if isinstance(code, int) else 0, out, err


def _events(path: Path, count: int = 40) -> Path:
    rows = [
        {
            "event_id": f"e{n}",
            "type": "view",
            "user_id": f"u{n % 7}",
            "event_time": 1_767_600_000_000 + n * 60_000,
        }
        for n in range(count)
    ]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


@pytest.mark.parametrize("verb", [*cli.VERBS, "bench pipeline", "eval clustering"])
def test_every_verb_has_help_and_json(verb):
    """What each verb does can be asked for, and its result can be read by a program."""
    done = CliRunner().invoke(cli.shoal, [*verb.split(), "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.output
    assert "--json" in done.output or verb in {"bench", "eval", "inspect"}  # their sub-verbs have it


@pytest.mark.parametrize(("typed", "said"), [("runn", "did you mean 'run'"), ("nosuch", "known: run, demo")])
def test_a_misspelt_verb_is_answered_with_the_near_one(typed, said, capsys):
    """A typing error is answered with what was probably meant."""
    code, _, err = _main(typed, capsys=capsys)
    assert code == 2
    assert said in err


def test_an_unexpected_error_is_one_line_with_its_place(monkeypatch, capsys):
    """A fault of ours ends with 1 and a line that can be reported; no traceback, no key that may be a user."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("u42")

    monkeypatch.setattr(cli, "shoal", broken)
    code, _, err = _main("run", capsys=capsys)
    assert code == 1
    assert "KeyError" in err
    assert "test_cli.py" in err
    assert "Traceback" not in err
    assert "u42" not in err


def test_a_disk_error_outside_the_sinks_has_the_exit_code_of_the_disk(monkeypatch, capsys):
    """A full disk under any file is exit code 9."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "shoal", full)
    code, _, err = _main("run", capsys=capsys)
    assert code == 9
    assert "No space left" in err


@pytest.mark.parametrize("option", ["--input", "--output"])
def test_an_empty_path_is_refused(option, tmp_path, monkeypatch, capsys):
    """An unset shell variable does not turn the present folder into the output."""
    monkeypatch.chdir(tmp_path)
    paths = {"--input": str(_events(tmp_path / "e.jsonl")), "--output": "out"} | {option: ""}
    code, _, err = _main("run", *(word for pair in paths.items() for word in pair), capsys=capsys)
    assert code == 2
    assert f"{option}: is empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["e.jsonl"]


def test_an_input_that_an_output_would_write_over_is_refused(tmp_path, capsys):
    """The changes of one run as the input of another, in the same folder: refused before anything is opened."""
    path = _events(tmp_path / "segment.changes.jsonl")
    before = path.read_bytes()
    code, _, err = _main("run", "--input", str(path), "--output", str(tmp_path), capsys=capsys)
    assert code == 2
    assert "written over" in err
    assert path.read_bytes() == before


def test_other_files_beside_the_output_are_left_alone(tmp_path, capsys):
    """`--output .` beside the input itself loses nothing."""
    path = _events(tmp_path / "events.jsonl")
    before = path.read_bytes()
    code, _, _ = _main("run", "--input", str(path), "--output", str(tmp_path), *FAST, capsys=capsys)
    assert code == 0
    assert path.read_bytes() == before


def test_the_next_demo_removes_only_what_a_demo_wrote(tmp_path):
    """A file that somebody put into the demo's folder stays."""
    prepare(tmp_path)
    for name in ("segment.changes.jsonl", "events.jsonl"):
        (tmp_path / name).write_text("{}\n")
    prepare(tmp_path)
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["events.jsonl"]


def test_a_file_as_output_folder_is_refused(tmp_path, capsys):
    """What is there already and is no folder is named."""
    path = _events(tmp_path / "events.jsonl")
    code, _, err = _main("run", "--input", str(path), "--output", str(path), capsys=capsys)
    assert code == 2
    assert "is a file" in err


def test_a_run_where_all_is_rejected_says_so_and_what_to_do(tmp_path, capsys):
    """Wrong field names do not end in silence: how many, why, and which key mends it."""
    path = tmp_path / "other.jsonl"
    path.write_bytes(b'{"user":"u1","ts":1}\n' * 25)
    code, out, _ = _main("run", "--input", str(path), "--output", str(tmp_path / "o"), capsys=capsys)
    assert code == 0
    for words in (
        "All 25 records were rejected",
        "25  schema: event_id: missing",
        "input.field_map",
        f"shoal validate {path}",
        "no record was accepted",
    ):
        assert words in out
    assert "changes lie in" not in out


def test_a_json_run_keeps_its_advice_off_stdout(tmp_path, capsys):
    """stdout stays one JSON object; the advice goes to stderr."""
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n")
    _, out, err = _main("run", "--input", str(path), "--output", str(tmp_path / "o"), "--json", capsys=capsys)
    assert orjson.loads(out)["rejected"] == {"json": 2}
    assert "2  json: event: got a syntax error at character N" in err
    assert "CSV is not read" in err


def test_a_few_rejects_are_one_quiet_line():
    """A clean run says nothing, a nearly clean one where to look."""
    assert rejects_text(Counts(records=10, accepted=10), {}, "f") == ""
    text = rejects_text(Counts(records=10, accepted=9, rejected={"json": 1}), {}, "f")
    assert text == "1 of 10 records were rejected. `shoal validate f` says what is wrong with each."


def test_ctrl_c_finishes_the_step_and_the_same_command_goes_on(tmp_path):
    """SIGINT ends a followed run with 0 and says how to go on; the next run has all records, each once."""
    path, out = _events(tmp_path / "e.jsonl"), tmp_path / "out"
    run = [*SHOAL, "run", "--input", str(path), "--output", str(out), *FAST]
    process = subprocess.Popen([*run, "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        eventually(lambda: (out / "shoal.manifest.jsonl").exists(), 60)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "the same command goes on" in said
    done = subprocess.run([*run, "--json"], capture_output=True, check=True, timeout=60)
    assert orjson.loads(done.stdout)["accepted"] == 40


@pytest.mark.parametrize("verb", ["simulate", "validate"])
def test_a_reader_that_leaves_is_an_end(verb, tmp_path):
    """`| head` ends the verb with 0 and without a word."""
    path = tmp_path / "bad.jsonl"
    path.write_text("x\n" * 50_000)
    arguments = ["simulate", "--events", "20000"] if verb == "simulate" else ["validate", str(path)]
    process = subprocess.Popen([*SHOAL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), err) == (0, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "--events", "-5"),
        ("simulate", "--days", "nan"),
        ("simulate", "--seed", "-1"),
        ("simulate", "--late", "2"),
        ("demo", "--users", "0"),
        ("demo", "--seconds", "-1"),
        ("bench", "pipeline", "--count", "-1"),
        ("produce", "x", "--rate", "nan"),
    ],
)
def test_a_number_out_of_range_names_its_option(arguments, capsys):
    """Refused as an argument (2), with the option's name, before any work."""
    code, _, err = _main(*arguments, capsys=capsys)
    assert code == 2
    assert arguments[-2] in err


def test_verify_of_a_folder_without_steps_is_no_success(tmp_path, capsys):
    """Nothing compared is not `the same bytes`."""
    path = _events(tmp_path / "e.jsonl")
    (tmp_path / "empty").mkdir()
    code, _, err = _main("verify", "--input", str(path), "--output", str(tmp_path / "empty"), capsys=capsys)
    assert code == 2
    assert "no recorded step" in err


def test_verify_names_the_first_difference(tmp_path, capsys):
    """6 for a changed record, a damaged one and a missing one, each named; 7 for another configuration."""
    path, out = _events(tmp_path / "e.jsonl"), tmp_path / "out"
    where = ("--input", str(path), "--output", str(out))
    assert _main("run", *where, *FAST, capsys=capsys)[0] == 0
    assert _main("verify", *where, *FAST, capsys=capsys)[0] == 0
    code, _, err = _main("verify", *where, capsys=capsys)
    assert code == 7
    assert "same --config, --set" in err
    changes = out / "segment.changes.jsonl"
    lines = changes.read_bytes().splitlines(keepends=True)
    tampered = lines[1].replace(b'"transition":"assigned"', b'"transition":"ASSIGNED"')
    assert tampered != lines[1]
    for damaged, said in (
        (
            [lines[0], tampered, *lines[2:]],
            "segment.changes partition 0 offset 1: not the value of the record of step ",
        ),
        ([lines[0], b"garbage\n", *lines[2:]], "segment.changes partition 0 offset 1: not a record that"),
        (lines[:-1], "segment.changes: a record that step "),
    ):
        changes.write_bytes(b"".join(damaged))
        code, _, err = _main("verify", *where, *FAST, capsys=capsys)
        assert code == 6
        assert said in err
        assert "u1" not in err


def test_produce_looks_at_the_file_before_it_waits_for_a_broker(tmp_path, capsys):
    """A missing file is said at once, not after kafka.broker_wait_s."""
    code, _, err = _main("produce", str(tmp_path / "nofile"), capsys=capsys)
    assert code == 10
    assert "cannot be read" in err
    assert "broker" not in err


def test_an_absent_broker_ends_a_run_with_3(tmp_path):
    """After kafka.broker_wait_s the process gives up, and the last line says what to look at."""
    done = subprocess.run(
        [*SHOAL, "run", "--set", "kafka.broker_wait_s=0.3", "--set", "kafka.bootstrap_servers=127.0.0.1:1",
         "--set", "http.port=0"],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=os.environ.copy(),
    )  # fmt: skip
    assert done.returncode == 3
    assert "kafka.bootstrap_servers" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_health_limits_of_the_configuration_are_the_ones_that_count(tmp_path):
    """With http.waiting_max_s at a fifth of a second, an engine without a broker soon answers 503."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keys = ("kafka.bootstrap_servers=127.0.0.1:1", "kafka.broker_wait_s=60", "http.waiting_max_s=0.2")
    flags = [part for key in (*keys, f"http.port={port}") for part in ("--set", key)]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen([*SHOAL, "run", *flags], stderr=log, cwd=tmp_path)

    def says_503() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
        except urllib.error.HTTPError as error:
            return error.code == 503
        except OSError:
            pass
        return False

    try:
        eventually(lambda: b"does not answer" in (tmp_path / "log").read_bytes(), 30)
        eventually(says_503, 30)
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0
    finally:
        running.kill()
        running.wait()


def test_a_run_over_files_shows_its_configuration_at_start(tmp_path):
    """What a run was made with stands in its log, on stderr; the result on stdout stays clean."""
    source = _events(tmp_path / "events.jsonl")
    done = subprocess.run(
        [*SHOAL, "run", "--input", str(source), "--output", str(tmp_path / "out"), "--json", *FAST],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "[segmenter]\nbackend" in done.stderr
    assert "segments = 2" in done.stderr
    assert orjson.loads(done.stdout)["records"] == 40


def test_simulate_checks_the_configuration_even_where_it_is_not_used(capsys):
    """A misspelt key is refused by every verb that takes one."""
    code, _, err = _main("simulate", "--events", "5", "--set", "foo.bar=1", capsys=capsys)
    assert code == 2
    assert "foo" in err


def test_one_thread_holds_for_libraries_that_were_loaded_before_it_was_asked_for():
    """numpy's BLAS reads its variables when it is imported, which is before any verb can say anything."""
    code = (
        "import numpy, threadpoolctl\n"
        "from shoal.stream.wiring import one_thread\n"
        "one_thread()\n"
        "print(*{pool['num_threads'] for pool in threadpoolctl.threadpool_info()})"
    )
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.split() == ["1"]

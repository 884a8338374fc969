"""shoal validate: a file of events held against the contract, with the decoder that the engine uses."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import orjson

from ..events import Reject
from ..sources import FileSource
from ..wire import Decoder
from .options import as_json, configuration, configured

_RECORDS = 8192  # read at a time
_TIMEOUT_S = 1.0


@click.command(short_help="events checked against the contract")
@click.argument("file")
@configured
@as_json
def command(file: str, config_path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check each line of FILE (JSON lines, .gz, or - for stdin) against the event contract.

    One line per problem, FILE:LINE: reason: detail, then a summary. With --json one object per problem,
    then the summary as an object. The [input] section of the configuration says how your events are read.
    Exit code 0: no problems. 1: problems. 2: wrong configuration. 10: FILE cannot be read.
    """
    decoder = Decoder(configuration(config_path, overrides).input)
    write = _write_json if as_json else _write_text
    reasons: Counter[str] = Counter()
    records = 0
    for start, read, rejects in _checked(file, decoder):
        records += read
        for reject in rejects:
            reasons[reject.reason.value] += 1
            write(file, start + reject.row + 1, reject)
    _summary(file, records, reasons, as_json)
    sys.exit(1 if reasons else 0)


def _checked(file: str, decoder: Decoder) -> Iterator[tuple[int, int, list[Reject]]]:
    """Per chunk of the file: its first line (from 0), how many lines, and what is wrong with them."""
    source = FileSource(file)
    try:
        source.open(lambda: False)
        while (polled := source.poll(_RECORDS, _TIMEOUT_S)) is not None:
            records, _ = polled
            if len(records):
                yield int(records.offsets[0]), len(records), decoder.decode(records)[1]
    finally:
        source.close()


def _write_text(file: str, line: int, reject: Reject) -> None:
    click.echo(f"{file}:{line}: {reject.reason.value}: {reject.detail}")


def _write_json(file: str, line: int, reject: Reject) -> None:
    problem = {"file": file, "line": line, "reason": reject.reason.value, "detail": reject.detail}
    click.echo(orjson.dumps(problem))


def _summary(file: str, records: int, reasons: Counter[str], as_json: bool) -> None:
    counts = dict(sorted(reasons.items()))
    problems = sum(counts.values())
    if as_json:
        click.echo(orjson.dumps({"file": file, "records": records, "problems": problems, "reasons": counts}))
        return
    listed = f" ({', '.join(f'{reason} {count:,}' for reason, count in counts.items())})" if counts else ""
    click.echo(f"{file}: {records:,} records, {problems:,} with problems{listed}")

"""Records whose header names are not UTF-8: kafka-python cannot read them, and so nothing behind them.

It takes such a batch for a corrupt one, for good, and a topic that anybody may write to would stop the engine.
Kafka itself does not look at the name. Here the bytes that are no text become replacement characters.
"""

from __future__ import annotations

from typing import Any

from kafka.record.default_records import DefaultRecordBatch


class _Lenient(bytes):
    """Bytes, and slices of them, that always decode."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _Lenient(found) if isinstance(index, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, "replace")


_strict = DefaultRecordBatch._read_msg


def _read_msg(self: Any) -> Any:
    start = self._pos
    try:
        return _strict(self)
    except UnicodeDecodeError:
        self._pos, self._buffer = start, _Lenient(self._buffer)
        return _strict(self)


def accept_any_header_name() -> None:
    """For every consumer of this process, from here on."""
    DefaultRecordBatch._read_msg = _read_msg

"""Bytes to columns: the event contract, the scanner, the conventions of others. `wire.py` is the entry."""

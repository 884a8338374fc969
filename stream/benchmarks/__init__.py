"""Measurements against named peers, each contestant in a process and one thread of its own."""

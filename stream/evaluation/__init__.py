"""Evaluations: how good the groups are, against truth, against named peers, and in use."""

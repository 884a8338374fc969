"""Behaviour events of a shop with known truth, for the demo, for tests and for loads."""

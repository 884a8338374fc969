"""The simulated world: a disk, a log and a clock that fail on demand, one thread, seeded."""

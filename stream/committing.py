"""Who waits for a commit: a thread beside the engine, or the engine itself.

A commit is mostly waiting, and computing the next step needs nothing of it. So the engine hands a step over with
`begin`, computes the next one, and asks with `finish` what became of the first before it hands over another.

Always true: at most one commit is on its way; what it raised, the engine raises, from `finish`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

_GIVE_UP_S = 2.0  # a process that ends anyway waits no longer for what is in doubt


class Committing(Protocol):
    def begin(self, commit: Callable[[], None]) -> None:
        """Do it, now or until `finish`. The one before must be finished."""

    def finish(self) -> None:
        """Return when it is done; raises what it raised. Nothing happens when nothing was begun."""

    def close(self) -> None:
        """The process ends: wait a moment for what is on its way. Never raises."""


class AtOnce:
    """The engine itself, before it goes on: for whom every run must be like the one before."""

    def begin(self, commit: Callable[[], None]) -> None:
        commit()

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class Beside:
    """A thread of its own for as long as the engine lives."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._commit: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._begun, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._on_its_way = False

    def begin(self, commit: Callable[[], None]) -> None:
        assert not self._on_its_way, "one commit at a time: the one before is not finished"
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="shoal-commit")
            self._thread.start()
        self._commit, self._on_its_way = commit, True
        self._begun.release()

    def finish(self) -> None:
        if self._on_its_way:
            self._done.acquire()
            self._on_its_way = False
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        if self._on_its_way and not self._done.acquire(timeout=_GIVE_UP_S):
            return
        self._on_its_way, self._commit = False, None
        self._begun.release()  # the thread ends

    def _work(self) -> None:
        while self._begun.acquire() and self._commit is not None:
            try:
                self._commit()
            except BaseException as error:  # raised again by `finish`, in the engine's own thread
                self._error = error
            self._done.release()

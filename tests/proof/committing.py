"""The longest way a commit can take: nothing of it happens before the engine waits for it.

By then the next step is computed, and the state in memory is ahead of all that is recorded. Between handing a
step over and waiting for it an engine computes and does nothing else, so every order of the two that a thread
could bring about is the same to the world as this one, or as committing at once.
"""

from __future__ import annotations

from collections.abc import Callable


class AtLast:
    def __init__(self) -> None:
        self._commit: Callable[[], None] | None = None

    def begin(self, commit: Callable[[], None]) -> None:
        assert self._commit is None, "one commit at a time: the one before is not finished"
        self._commit = commit

    def finish(self) -> None:
        commit, self._commit = self._commit, None
        if commit is not None:
            commit()

    def close(self) -> None:
        """Killed before it began."""
        self._commit = None

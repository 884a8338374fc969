"""Questions to a running engine, answered by its own thread between two steps: nobody else reads the pipeline.

Theory. Whoever asks (an HTTP handler, on another thread) puts a question into a mailbox and waits. Once per turn
the engine looks into it. Always true:

    an answer speaks of a committed step. In the loop it is made from the state of step n, while n is on its way
        to the sink, and handed over when n is committed; if n never is, it is never handed over
    a question cannot change anything: it is a function that reads
    asking takes TIME_SHARE of the engine's time, however many people ask: ANSWERS_MAX different questions a turn,
        and after it no turn looks before that share is kept
    asking fills no memory: WAITING_MAX wait at most, the next one is told to come again
    who has stopped waiting is not answered
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from ..pipeline import Pipeline

WAITING_MAX = 64
ANSWERS_MAX = 8
"""Different questions answered in one turn; asking the same thing twice costs nothing."""

TIME_SHARE = 0.05
_LOOK_S = 0.02  # after so long a turn begins no further answer
_PAUSE_MAX_S = 2.0

Read = Callable[[Pipeline], Any]


class Questions(Protocol):
    """What the engine does about questions."""

    def look(self, pipeline: Pipeline) -> None:
        """Answer what was asked, of the state as it is now. Called when the latest step is computed, or committed."""

    def tell(self) -> None:
        """The step that was looked at is committed: hand the answers over."""

    def close(self) -> None:
        """The engine ends: nobody will be answered any more."""


class NoQuestions:
    """Nobody asks."""

    def look(self, pipeline: Pipeline) -> None:
        pass

    def tell(self) -> None:
        pass

    def close(self) -> None:
        pass


class Busy(Exception):
    """Too many questions wait, or the engine has ended: ask again later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked for, and the committed step that it speaks of."""

    value: Any
    step: int
    now_ms: int  # stream time


@dataclass(frozen=True, slots=True)
class _Question:
    what: Hashable  # the same for questions that have the same answer
    read: Read
    reply: Future[Answer]


class Mailbox:
    """Questions from any thread, answers from the engine's."""

    def __init__(
        self,
        waiting_max: int = WAITING_MAX,
        answers_max: int = ANSWERS_MAX,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting_max, self._answers_max, self._clock_s = waiting_max, answers_max, clock_s
        self._next_s = 0.0  # no look before
        self._lock = threading.Lock()
        self._waiting: deque[_Question] = deque()
        self._answered: list[tuple[_Question, Answer | Exception]] = []
        self._closed = False

    def ask(self, what: Hashable, read: Read) -> Future[Answer]:
        """`read` is called with the pipeline, on the engine's thread; it must only read. Raises Busy."""
        question = _Question(what, read, Future())
        with self._lock:
            if self._closed or len(self._waiting) >= self._waiting_max:
                raise Busy
            self._waiting.append(question)
        return question.reply

    def look(self, pipeline: Pipeline) -> None:
        if not self._waiting or (began_s := self._clock_s()) < self._next_s:
            return
        found: dict[Hashable, Answer | Exception] = {}
        while question := self._take(found, self._clock_s() - began_s):
            if question.what not in found:
                found[question.what] = _answer(question.read, pipeline)
            self._answered.append((question, found[question.what]))
        ended_s = self._clock_s()
        self._next_s = ended_s + min((ended_s - began_s) * (1 / TIME_SHARE - 1), _PAUSE_MAX_S)

    def _take(self, found: Mapping[Hashable, object], took_s: float) -> _Question | None:
        """The next one in turn that may still be answered; who waits no longer is left out."""
        full = len(found) >= self._answers_max or took_s >= _LOOK_S
        with self._lock:
            while self._waiting and not (full and self._waiting[0].what not in found):
                question = self._waiting.popleft()
                if question.reply.set_running_or_notify_cancel():
                    return question
        return None

    def tell(self) -> None:
        if self._answered:
            answered, self._answered = self._answered, []
            for question, answer in answered:
                if isinstance(answer, Exception):
                    question.reply.set_exception(answer)
                else:
                    question.reply.set_result(answer)

    def close(self) -> None:
        """Whoever still waits is told so; what was looked at, and is not known to be committed, is not told."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = list(self._waiting), deque()
        left = [question for question, _ in self._answered]
        self._answered = []
        for question in waiting:
            if question.reply.set_running_or_notify_cancel():
                left.append(question)
        for question in left:
            question.reply.set_exception(Busy())


def _answer(read: Read, pipeline: Pipeline) -> Answer | Exception:
    """A question that cannot be answered is the asker's misfortune; the engine goes on."""
    try:
        return Answer(read(pipeline), pipeline.chain.step, pipeline.clock.now_ms)
    except Exception as error:  # whatever a question does, the stream is not its business
        return error

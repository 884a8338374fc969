"""Questions to a running engine, answered by its own thread between two steps: nobody else reads the pipeline.

Theory. Whoever asks (an HTTP handler, on another thread) puts a question into a mailbox and waits. Once per turn
the engine looks into it. Always true:

    an answer speaks of a committed step. In the loop it is made from the state of step n, while n is on its way
        to the sink, and handed over when n is committed; if n never is, it is never handed over
    a question cannot change anything: it is a function that reads
    asking holds up the engine by ANSWERS_MAX different questions a turn, however many people ask, and fills no
        memory: WAITING_MAX wait at most, the next one is told to come again
    who has stopped waiting is not answered
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from ..pipeline import Pipeline

WAITING_MAX = 64
ANSWERS_MAX = 8
"""Different questions answered in one turn; asking the same thing twice costs nothing."""

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

    def __init__(self, waiting_max: int = WAITING_MAX, answers_max: int = ANSWERS_MAX) -> None:
        self._waiting_max, self._answers_max = waiting_max, answers_max
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
        if self._waiting:
            found: dict[Hashable, Answer | Exception] = {}
            for question in self._taken():
                if question.what not in found:
                    found[question.what] = _answer(question.read, pipeline)
                self._answered.append((question, found[question.what]))

    def _taken(self) -> list[_Question]:
        """The oldest ones, as many as ask for ANSWERS_MAX different things; who waits no longer is left out."""
        taken: list[_Question] = []
        different: set[Hashable] = set()
        with self._lock:
            for question in list(self._waiting):
                if len(different | {question.what}) > self._answers_max:
                    break
                self._waiting.popleft()
                if question.reply.set_running_or_notify_cancel():
                    different.add(question.what)
                    taken.append(question)
        return taken

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

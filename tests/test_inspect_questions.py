"""Questions to a running engine: answered of committed steps only, bounded, and never in the way of the stream."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proof.committing import AtLast
from shop import engine, small

from shoal.sinks.memory import MemorySink
from shoal.stream.committing import AtOnce, Beside
from shoal.stream.events import Output
from shoal.stream.pipeline import Pipeline
from shoal.stream.ports import CommitUnknown
from shoal.stream.watching.questions import TIME_SHARE, Answer, Busy, Mailbox

PIPELINE: Any = engine(small()).pipeline


def step_of(pipeline: Pipeline) -> int:
    return pipeline.chain.step


class Asking(Mailbox):
    """Asks itself something before every look, and keeps what became of it."""

    def __init__(self, sink: MemorySink) -> None:
        super().__init__(clock_s=lambda: 0.0)
        self.sink = sink
        self.replies: list[Future[Answer]] = []
        self.told_at: list[tuple[int, int]] = []  # step that an answer speaks of, last step in the sink then

    def look(self, pipeline: Pipeline) -> None:
        reply = self.ask("step", step_of)
        reply.add_done_callback(self.heard)
        self.replies.append(reply)
        super().look(pipeline)

    def heard(self, reply: Future[Answer]) -> None:
        if reply.exception() is None:
            last = self.sink.last()
            self.told_at.append((reply.result().step, last.step if last else 0))


@pytest.mark.parametrize("committing", [AtOnce, AtLast, Beside])
def test_an_answer_speaks_of_a_step_that_is_committed(committing):
    """Whoever waits for commits, and however: when an answer is heard, its step is in the sink."""
    sink = MemorySink()
    asking = Asking(sink)
    engine(small(), sink=sink, questions=asking, committing=committing()).run()
    assert len(asking.told_at) >= 15
    for step, committed in asking.told_at:
        assert step <= committed
    assert all(
        reply.result().value == reply.result().step for reply in asking.replies if not reply.exception()
    )
    assert {step for step, _ in asking.told_at} >= set(range(1, 15)), "an answer is of the latest step"


@pytest.mark.parametrize("committing", [AtOnce, AtLast, Beside])
def test_of_a_step_whose_commit_is_in_doubt_nothing_is_told(committing):
    """It may never have happened: who asked is told to come again."""

    class Doubtful(MemorySink):
        def commit(self, output: Output) -> None:
            if output.step == 5:
                raise CommitUnknown("no answer")
            super().commit(output)

    sink = Doubtful()
    asking = Asking(sink)
    with pytest.raises(CommitUnknown):
        engine(small(), sink=sink, questions=asking, committing=committing()).run()
    assert max(step for step, _ in asking.told_at) == 4
    assert all(reply.done() for reply in asking.replies)
    with pytest.raises(Busy):
        asking.ask("anything", step_of)


def test_a_flood_is_answered_a_few_at_a_time_and_the_rest_turned_away():
    """The stream waits for so many questions a turn, memory holds so many at all."""
    mailbox = Mailbox(waiting_max=20, answers_max=8, clock_s=lambda: 0.0)
    replies = [mailbox.ask(n, step_of) for n in range(20)]
    with pytest.raises(Busy):
        mailbox.ask(20, step_of)
    for answered in (8, 16, 20):
        mailbox.look(PIPELINE)
        mailbox.tell()
        assert sum(reply.done() for reply in replies) == answered
        assert all(reply.done() for reply in replies[:answered]), "first come, first served"


def test_asking_takes_a_twentieth_of_the_engines_time_however_many_ask():
    """Questions that take long are looked at seldom; between two looks a turn costs nothing."""
    now_s, asking_s = 0.0, 0.0

    def slow(pipeline: Pipeline) -> None:
        nonlocal now_s, asking_s
        now_s, asking_s = now_s + 0.03, asking_s + 0.03

    mailbox = Mailbox(clock_s=lambda: now_s)
    answered = 0
    for turn in range(1000):
        reply = mailbox.ask(turn, slow) if len(mailbox._waiting) < 60 else None
        mailbox.look(PIPELINE)
        mailbox.tell()
        answered += reply is not None
        now_s += 0.1
    assert asking_s > 0.5 * TIME_SHARE * now_s, "and it does take it"
    assert asking_s <= 1.1 * TIME_SHARE * now_s


def test_the_same_question_is_read_once_a_turn():
    """A thousand people who look at one page cost as much as one."""
    read = []
    mailbox = Mailbox(waiting_max=1000)
    replies = [mailbox.ask("segments", lambda pipeline: read.append(1)) for _ in range(1000)]
    mailbox.look(PIPELINE)
    mailbox.tell()
    assert all(reply.done() for reply in replies)
    assert len(read) == 1


def test_who_has_stopped_waiting_is_not_answered():
    """Nor does it take anybody's turn."""
    mailbox, read = Mailbox(answers_max=1), []
    gone = mailbox.ask("gone", lambda pipeline: read.append(1))
    gone.cancel()
    there = mailbox.ask("there", step_of)
    mailbox.look(PIPELINE)
    mailbox.tell()
    assert (there.done(), read) == (True, [])


def test_a_question_that_fails_is_its_askers_misfortune():
    """The engine goes on, and so do the other questions."""
    mailbox = Mailbox()
    wrong, right = mailbox.ask("wrong", lambda pipeline: 1 // 0), mailbox.ask("right", step_of)
    mailbox.look(PIPELINE)
    mailbox.tell()
    assert isinstance(wrong.exception(), ZeroDivisionError)
    assert right.result().value == 0


def test_nothing_is_told_before_it_is_committed():
    """Looking is not telling; a close between the two tells nothing but that it is over."""
    mailbox = Mailbox()
    reply = mailbox.ask("step", step_of)
    mailbox.look(PIPELINE)
    assert not reply.done()
    mailbox.close()
    assert isinstance(reply.exception(), Busy)
    mailbox.tell()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["ask", "ask", "cancel", "look", "tell", "close"]), max_size=60))
def test_everybody_hears_something_in_the_end(doings):
    """Whatever order things happen in: bounded at all times, and after a close nobody waits for ever."""
    mailbox, replies = Mailbox(waiting_max=5, answers_max=2, clock_s=lambda: 0.0), []
    for doing in [*doings, "close"]:
        if doing == "ask":
            with suppress(Busy):
                replies.append(mailbox.ask(len(replies), step_of))
        elif doing == "cancel":
            if replies:
                replies[len(replies) // 2].cancel()
        else:
            getattr(mailbox, doing)(*([PIPELINE] if doing == "look" else []))
        assert len(mailbox._waiting) <= 5
    assert all(reply.done() for reply in replies)


def test_questions_from_many_threads_are_all_answered():
    """None is lost between two threads."""
    mailbox, heard, over = Mailbox(), [], threading.Event()

    def ask(n: int) -> None:
        for i in range(50):
            while True:
                try:
                    heard.append(mailbox.ask((n, i), step_of).result(10.0).value)
                    break
                except Busy:
                    continue

    def answer() -> None:
        while not over.is_set():
            mailbox.look(PIPELINE)
            mailbox.tell()

    answering = threading.Thread(target=answer)
    asking = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in (answering, *asking):
        thread.start()
    for thread in asking:
        thread.join(30.0)
    over.set()
    answering.join(5.0)
    assert len(heard) == 400

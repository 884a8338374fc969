"""Snapshots written beside the engine: a forked child has the state as it was, the engine goes on at once.

Theory. After fork() the child shares the engine's memory, page by page, until one of them writes to a page; so
it sees the state of one step while the engine computes the next ones. The pause is the copying of the page
tables, plus one page fault for each page that the engine changes while the child lives.

A child of a process with threads has only the thread that forked; locks that others held stay locked for ever,
and what they were doing is half done. So the child does nothing but: capture, pack, write, answer through a
pipe, `_exit`. It runs no handlers, no finalisers and no garbage collection (a client's handle would wait for
its thread), logs nothing, and calls no library that has threads of its own: states are numpy arrays.

It lets go of every descriptor but the pipe: a lock on the output folder, or a connection, must not outlive the
engine. Signals that tell the engine to stop are not for the child. When it takes too long it is killed; when
the engine was killed, the child gives its file no name. What can go wrong beside the engine is a warning.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from .ports import Saved, State
from .snapshots import DirectoryStore

LIMIT_S = 300.0
"""A child that takes longer is killed: a disk that hangs, or a lock that nobody will open again."""

_CLOSE_WAIT_S = 1.0
_NICE = 5  # the engine comes first where there is one core for both
_NOT_FOR_THE_CHILD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_ANSWER_BYTES_MAX = 4096  # what a pipe takes at once, whoever reads


@dataclass(slots=True)
class _Child:
    pid: int
    answer: int  # where to read what it says
    step: int
    started_s: float
    pause_s: float
    killed: bool = False

    def ended(self) -> bool:
        """Whether it is over; then nothing is left of it."""
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # somebody else in this process waits for children
            return True

    def kill(self) -> None:
        self.killed = True
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def said(self) -> dict[str, Any]:
        """Its answer; empty when it died before it could give one. Only once it has ended."""
        try:
            text = os.read(self.answer, _ANSWER_BYTES_MAX)
        except BlockingIOError:
            text = b""
        os.close(self.answer)
        return dict(orjson.loads(text)) if text else {}


class ForkedStore:
    """A DirectoryStore that writes in a child process, one snapshot at a time. POSIX only."""

    def __init__(self, store: DirectoryStore, limit_s: float = LIMIT_S) -> None:
        self._store = store
        self._limit_s = limit_s
        self._child: _Child | None = None

    @property
    def writing(self) -> bool:
        return self._child is not None

    def save(self, step: int, manifest_hash: str, capture: Callable[[], State]) -> None:
        """Begin one snapshot; nothing while one is being written."""
        if self._child is not None:
            return
        started_s, engine = time.monotonic(), os.getpid()

        def work() -> dict[str, Any]:
            size_bytes = self._store.write(step, manifest_hash, capture(), lambda: os.getppid() == engine)
            return {"size_bytes": size_bytes, "seconds": time.monotonic() - started_s}

        try:
            pid, answer = _fork(work)
        except OSError as error:  # no memory for the page tables, or too many processes
            self._store.warn(step, error.strerror or str(error))
            return
        self._child = _Child(pid, answer, step, started_s, time.monotonic() - started_s)

    def finished(self) -> Sequence[Saved]:
        child = self._child
        if child is None:
            return ()
        if not child.ended():
            if not child.killed and time.monotonic() - child.started_s > self._limit_s:
                child.kill()
            return ()
        self._child = None
        return self._report(child)

    def _report(self, child: _Child) -> Sequence[Saved]:
        said = child.said()
        if "size_bytes" in said:
            return (Saved(child.step, said["seconds"], said["size_bytes"], child.pause_s),)
        took = f"took longer than {self._limit_s:g} s" if child.killed else "its process was killed"
        self._store.warn(child.step, said.get("error", took))
        return ()

    def newest(self, not_past: int) -> Iterator[tuple[int, str, State]]:
        return self._store.newest(not_past)

    def close(self) -> None:
        """Wait a second at most for what is being written, then kill the child."""
        child, self._child = self._child, None
        if child is None:
            return
        select.select([child.answer], [], [], _CLOSE_WAIT_S)  # until it has answered, or died
        child.kill()
        until_s = time.monotonic() + _CLOSE_WAIT_S
        while not child.ended() and time.monotonic() < until_s:  # a disk that hangs holds even a killed one
            time.sleep(0.001)
        os.close(child.answer)


def _fork(work: Callable[[], dict[str, Any]]) -> tuple[int, int]:
    """Do `work` in a child. Its process id, and where its answer can be read without waiting. Raises OSError."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    try:
        with _signals_blocked(), warnings.catch_warnings():
            # Python warns of fork() beside threads; the head of this module says why it is safe here.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
            if pid == 0:
                _be_the_child(theirs, work)
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return pid, ours


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """The child is born with them blocked and never lets them in."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_THE_CHILD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_the_child(answer: int, work: Callable[[], dict[str, Any]]) -> NoReturn:
    """Work, answer, and end here: nothing of the engine may run in this process."""
    try:
        try:
            gc.disable()
            os.nice(_NICE)
            _let_go_of_all_but(answer)
            said = work()
        except OSError as error:
            said = {"error": error.strerror or str(error)}
        except BaseException as error:  # the end of this process: whatever it was, the engine hears of it
            said = {"error": repr(error)[:1000]}
        os.write(answer, orjson.dumps(said))
    finally:
        os._exit(0)


def _let_go_of_all_but(answer: int) -> None:
    """Close every descriptor but this one; the standard ones lead nowhere."""
    os.closerange(3, answer)
    os.closerange(max(3, answer + 1), os.sysconf("SC_OPEN_MAX"))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in {0, 1, 2} - {answer}:
        os.dup2(nowhere, standard)

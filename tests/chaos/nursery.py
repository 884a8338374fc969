"""Where engines are born: a process that has imported everything already, and forks.

A start costs milliseconds instead of seconds of processor time, so that sixty engines can die in a few
minutes on two cores. What runs afterwards is the same command line in a process of its own.

    in    one JSON line per birth: {"spec": ..., "log": ...}
    out   {"ready": true}, then {"born": pid} for each birth, and {"ended": pid, "code": ...}

When its input ends, whoever still lives is killed: nothing outlives the test.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from .engine import Spec, run

_LOOK_EVERY_S = 0.05


def main() -> None:
    _import_everything()
    _say({"ready": True})
    alive: set[int] = set()
    waiting = b""  # not sys.stdin's own buffer: of two lines that come at once, select would never tell of the second
    while True:
        if select.select([0], [], [], _LOOK_EVERY_S)[0]:
            more = os.read(0, 1 << 16)
            if not more:
                break
            *lines, waiting = (waiting + more).split(b"\n")
            for line in lines:
                alive.add(pid := _bear(msgspec.json.decode(line)))
                _say({"born": pid})
        alive -= _report_the_dead()
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _import_everything() -> None:
    from shoal.stream.wiring import one_thread

    one_thread()
    import torch
    import uvicorn  # noqa: F401

    from shoal.encoders import autoencoder  # noqa: F401
    from shoal.stream import pipeline  # noqa: F401
    from shoal.stream.commands import run  # noqa: F401
    from shoal.stream.kafka import source  # noqa: F401

    assert torch.get_num_threads() >= 1


def _bear(birth: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        _be_alone(Path(birth["log"]))
        run(msgspec.convert(birth["spec"], Spec))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _be_alone(log: Path) -> None:
    """No pipe of the nursery's is kept; everything said goes to the log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    os.close(null)


def _report_the_dead() -> set[int]:
    found: set[int] = set()
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})
        found.add(pid)


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(what).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

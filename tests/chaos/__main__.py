"""python -m chaos --faults 200 --seed 7 [--client confluent] [--keep FOLDER]"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from broker import JarBroker

from .run import run


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    arguments.add_argument("--faults", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments.add_argument("--keep", type=Path, help="a folder for the logs, kept afterwards")
    arguments.add_argument("--client", default="kafka-python", help="as kafka.client")
    chosen = arguments.parse_args()
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    print(f"chaos: {chosen.faults} faults, seed {chosen.seed}, {chosen.client}", flush=True)
    with ExitStack() as stack:
        folder = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "broker").mkdir(parents=True)
        broker = stack.enter_context(closing(JarBroker(folder / "broker")))
        broker.start()
        report = run(
            broker,
            folder,
            chosen.seed,
            chosen.faults,
            chosen.client,
            say=lambda line: print(line, flush=True),
        )
    print(report.text())
    return 1 if report.divergences else 0


if __name__ == "__main__":
    sys.exit(main())

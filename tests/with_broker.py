"""Run a command beside a real Kafka that lives only as long; `{}` in the command becomes host:port.

python tests/with_broker.py shoal bench pipeline --kafka {}
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from broker import Unavailable, obtain


def main(command: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            broker = obtain(Path(folder))
        except Unavailable as error:
            print(f"no Kafka to run against: {error}", file=sys.stderr)
            return 1
        try:
            return subprocess.run(
                [part.replace("{}", broker.address) for part in command], check=False
            ).returncode
        finally:
            broker.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A subscriber of your own to start from: greets everybody who enters a segment, and goes on after a restart.

    python deploy/examples/subscriber.py run                  a folder that `shoal run --output run` wrote
    python deploy/examples/subscriber.py 127.0.0.1:9092       Kafka

Replace `greet`. It is called at least once for every change: what lies between the last save and a crash comes
again, with the same user and sequence.
"""

import os
import sys
from pathlib import Path

from shoal.stream.config import Kafka
from shoal.stream.subscribing import Change, FileReader, SegmentMirror

STATE = Path("subscriber.json")


def greet(change: Change) -> None:
    if change.after and (change.before is None or change.before.segment_id != change.after.segment_id):
        print(f"hello {change.user}, welcome to {change.after.name!r} (change {change.sequence})", flush=True)


def save(mirror: SegmentMirror) -> None:
    beside = STATE.with_suffix(".new")
    beside.write_bytes(mirror.snapshot())
    os.replace(beside, STATE)


def main(source: str) -> None:
    mirror = SegmentMirror.restore(STATE.read_bytes()) if STATE.exists() else SegmentMirror()
    if Path(source).is_dir():
        reader = FileReader(source)  # follow=True waits for more
    else:
        from shoal.stream.subscribing.kafka_reader import KafkaReader

        reader = KafkaReader(Kafka(bootstrap_servers=source))
    for number, change in enumerate(mirror.follow(reader), 1):
        greet(change)
        if number % 1000 == 0:
            save(mirror)
    save(mirror)
    print(f"{len(mirror.members)} users in {len(mirror.sizes)} segments", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""For those who subscribe: an exact copy of who is in which segment, and readers of the topics it is made from.

    from shoal.stream.subscribing import FileReader, SegmentMirror

    mirror = SegmentMirror()
    for change in mirror.follow(FileReader("run")):
        print(change.user, change.before, change.after)

On Kafka: `from shoal.stream.subscribing.kafka_reader import KafkaReader`.
"""

from .facts import (
    Applied,
    Change,
    Confidence,
    Counts,
    Lineage,
    Member,
    MirrorFull,
    Place,
    Reader,
    Record,
    Segment,
    Trouble,
)
from .file_reader import FileReader
from .mirror import SegmentMirror

__all__ = [
    "Applied",
    "Change",
    "Confidence",
    "Counts",
    "FileReader",
    "Lineage",
    "Member",
    "MirrorFull",
    "Place",
    "Reader",
    "Record",
    "Segment",
    "SegmentMirror",
    "Trouble",
]

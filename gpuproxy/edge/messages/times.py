"""Times as messages."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(at: datetime | None) -> Timestamp | None:
    """A time as a protobuf Timestamp; None for None."""
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp

"""Times and durations as messages, and those of a request as values."""

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.edge.messages.violations import Violations

_EARLIEST, _LATEST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_MAX_NANOS = 999_999_999


def timestamp(at: datetime | None) -> Timestamp | None:
    """A time as a protobuf Timestamp; None for None."""
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def moment(field: str, given: Timestamp, found: Violations) -> datetime:
    """A time of a request. An invalid one, or one in or after the year 9999, is a violation."""
    if not 0 <= given.nanos <= _MAX_NANOS:
        found.add(field, f"nanos must be 0 to {_MAX_NANOS}")
    elif given.seconds < _EARLIEST.timestamp():
        found.add(field, "is before the year 1")
    elif given.seconds >= _LATEST.timestamp():
        found.add(field, "is not a time before the year 9999")
    else:
        return given.ToDatetime(tzinfo=UTC)
    return _EARLIEST


def duration(field: str, given: Duration, most: timedelta, found: Violations) -> timedelta:
    """A duration of a request, rounded up to microseconds, so that only 0 gives 0.

    A negative or invalid one, or one of more than `most`, is a violation.
    """
    if given.seconds < 0 or given.nanos < 0:
        found.add(field, "must not be negative")
    elif given.nanos > _MAX_NANOS:
        found.add(field, f"nanos must be 0 to {_MAX_NANOS}")
    elif given.seconds > most.total_seconds() or (given.seconds == most.total_seconds() and given.nanos):
        found.add(field, f"must be at most {int(most.total_seconds())} s")
    else:
        return timedelta(seconds=given.seconds, microseconds=-(-given.nanos // 1000))
    return timedelta(0)

"""io.net's logs: always server-sent events, with comments that keep the connection alive, and an event at the end."""

from datetime import UTC, datetime

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.market.prepaid.bookings import Booking
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import stream_answer


def stream(booking: Booking, name: str, source: str, fault: Fault | None) -> HttpResponse:
    """The log of a container. It says all there is now, and ends."""
    parts = [": connected\n\n"]
    if source == "stdout":
        parts += [f"data: {line}\n\n: keep-alive\n\n" for line in _lines(booking, name)]
    if fault is not None and fault.name == "stream_error":
        parts.append("event: error\ndata: the log service is not available\n\n")
    else:
        parts.append("event: complete\ndata: \n\n")
    return stream_answer("".join(parts))


def _lines(booking: Booking, name: str) -> list[str]:
    container = booking.order.container
    if container is None or booking.started_at is None:
        return []
    began = datetime.fromtimestamp(booking.started_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    lines = [f"{began} {name} pulls {container.image}", f"{began} {name} starts"]
    if booking.settled:
        lines.append(f"listens on port {container.traffic_port}")
    return lines + [event.message for event in booking.events[1:]]

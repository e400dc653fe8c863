"""What was spent as messages."""

from gpuproxy.edge.messages.times import timestamp
from gpuproxy.model.bookings import BookingLine
from gpuproxy.model.money import dollars, usd
from gpuproxy.model.transactions import Adjustment, Entry
from gpuproxy.v1 import gpuproxy_pb2 as pb


def transaction_message(transaction: Entry) -> pb.Transaction:
    """The usage of one meter within one hour, a booking, a refund, or an adjustment to the provider's charges."""
    if isinstance(transaction, Adjustment):
        return _adjustment(transaction)
    if isinstance(transaction, BookingLine):
        return _booking(transaction)
    meter = transaction.meter
    what = f"disk of {meter.gpu_model}" if meter.storage else f"{meter.num_gpus} x {meter.gpu_model}"
    if not meter.num_gpus:
        what = "volume"
    return pb.Transaction(
        id=transaction.id,
        type="usage",
        amount=usd(transaction.amount),
        currency="USD",
        timestamp=int(transaction.ended_at.timestamp()),
        status="pending" if transaction.pending else "completed",
        description=f"{what} at {dollars(meter.rate)}/h on {meter.provider}, contract {meter.instance_id}",
        provider=meter.provider,
        instance_id=meter.instance_id,
        reservation_id=meter.reservation_id,
        started_at=timestamp(transaction.started_at),
        ended_at=None if transaction.pending else timestamp(transaction.ended_at),
        gpu_hours=transaction.gpu_hours,
    )


def _booking(line: BookingLine) -> pb.Transaction:
    machine = f"{line.num_gpus} x {line.gpu_model} on {line.provider}, contract {line.instance_id or 'unknown'}"
    hours = f"{line.hours} hour{'' if line.hours == 1 else 's'}"
    texts = {
        "create": f"{hours} booked of {machine}",
        "extend": f"{hours} more booked of {machine}",
        "refund": f"refund of the time not used of {machine}",
    }
    asked = "; it is not known yet whether it was paid" if line.pending else ""
    return pb.Transaction(
        id=line.id,
        type="refund" if line.kind == "refund" else "booking",
        amount=usd(line.amount),
        currency="USD",
        timestamp=int(line.at.timestamp()),
        status="pending" if line.pending else "completed",
        description=f"{texts[line.kind]}{asked}",
        provider=line.provider,
        instance_id=line.instance_id,
        reservation_id=line.reservation_id,
        started_at=timestamp(line.began_at),
        ended_at=timestamp(line.until),
        gpu_hours=line.gpu_hours,
    )


def _adjustment(adjustment: Adjustment) -> pb.Transaction:
    charged, recorded = dollars(adjustment.charged), dollars(adjustment.metered)
    return pb.Transaction(
        id=adjustment.id,
        type="adjustment",
        amount=usd(adjustment.amount),
        currency="USD",
        timestamp=int(adjustment.at.timestamp()),
        status="completed",
        description=f"{adjustment.provider} charged {charged} for contract {adjustment.instance_id}, not {recorded}",
        provider=adjustment.provider,
        instance_id=adjustment.instance_id,
        reservation_id=adjustment.reservation_id,
        ended_at=timestamp(adjustment.at),
    )

"""What was spent as messages."""

from gpuproxy.edge.messages.times import timestamp
from gpuproxy.model.money import dollars, usd
from gpuproxy.model.transactions import Adjustment, Transaction
from gpuproxy.v1 import gpuproxy_pb2 as pb


def transaction_message(transaction: Transaction | Adjustment) -> pb.Transaction:
    """The usage of one meter within one hour, or an adjustment to the provider's charges."""
    if isinstance(transaction, Adjustment):
        return _adjustment(transaction)
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


def _adjustment(adjustment: Adjustment) -> pb.Transaction:
    charged, metered = dollars(adjustment.charged), dollars(adjustment.metered)
    return pb.Transaction(
        id=adjustment.id,
        type="adjustment",
        amount=usd(adjustment.amount),
        currency="USD",
        timestamp=int(adjustment.at.timestamp()),
        status="completed",
        description=f"{adjustment.provider} charged {charged} for contract {adjustment.instance_id}, metered {metered}",
        provider=adjustment.provider,
        instance_id=adjustment.instance_id,
        reservation_id=adjustment.reservation_id,
        ended_at=timestamp(adjustment.at),
    )

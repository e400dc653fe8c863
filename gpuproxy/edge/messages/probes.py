"""Probes as messages."""

from decimal import Decimal

from gpuproxy.edge.messages.times import timestamp
from gpuproxy.edge.messages.violations import Violations
from gpuproxy.model.money import Micro, micro, usd
from gpuproxy.model.offers import HIGHEST_PRICE
from gpuproxy.model.probes import Measurement, Probe
from gpuproxy.v1 import gpuproxy_pb2 as pb


def budget_of(request: pb.ProbeProviderRequest) -> Micro:
    """The most that the probe may cost, in micro-dollars. Raises InvalidArgument."""
    found = Violations()
    if not request.provider.strip():
        found.add("provider", "is required")
    if not 0 < request.max_spend <= HIGHEST_PRICE:  # NaN is not, either
        found.add("max_spend", f"must be more than 0 and at most {HIGHEST_PRICE:.0f} USD")
    found.finish()
    return micro(Decimal(str(request.max_spend)))


def probe_message(probe: Probe) -> pb.ProviderProbe:
    """One probe."""
    return pb.ProviderProbe(
        provider=probe.account[0],
        account=probe.account[1],
        state=probe.state,
        message=probe.doing,
        reservation_id=probe.reservation_id,
        parts=[
            pb.ProviderProbePart(what=part.what, price_per_hour=usd(part.price), max_cost=usd(part.most))
            for part in probe.parts
        ],
        max_cost=usd(probe.most),
        spent=usd(probe.spent),
        measurements=[measurement(each) for each in probe.measurements],
        began_at=timestamp(probe.began_at),
        ended_at=timestamp(probe.ended_at),
    )


def measurement(found: Measurement) -> pb.ProviderMeasurement:
    """One measurement."""
    return pb.ProviderMeasurement(
        name=found.name, outcome=found.outcome, value=found.value, unit=found.unit, why=found.why,
        measured_at=timestamp(found.at),
    )  # fmt: skip

"""From requests to what the engine is asked: every rule about a field of a demand is here or in `launch`.

All violations of a request are told at once. A Demand is complete: defaults are filled in, so that the engine knows
no zero that means something else.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, cast

from gpuproxy.edge.messages import fingerprints
from gpuproxy.edge.messages.launch import disk_gb, launch_spec
from gpuproxy.edge.messages.times import duration, moment
from gpuproxy.edge.messages.violations import Violations, shown
from gpuproxy.model import ids
from gpuproxy.model.demands import (
    DEFAULT_READY_TIMEOUT,
    MAX_GPUS,
    MAX_LEASE_DURATION,
    MIN_LEASE_DURATION,
    MIN_RELEASE_IDLE,
    ON_NOT_READY,
    PACKINGS,
    Demand,
    OnNotReady,
    Packing,
)
from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.model.images import compute_cap_of, cuda_of
from gpuproxy.model.offers import HIGHEST_PRICE, OfferFilter, OfferId, ProviderName
from gpuproxy.model.strategies import STRATEGIES
from gpuproxy.v1 import gpuproxy_pb2 as pb

MAX_REQUEST_ID = 128
_MAX_GB = 100_000.0
_MAX_CUDA = 100.0
_MAX_CORES = 10_000.0
_MAX_BANDWIDTH = 10_000_000.0
_MAX_TRAFFIC_PRICE = 1_000.0
_MAX_CHUNK = 64
_MAX_TEXT = 128
_MAX_HOSTS = 256
_MAX_LABELS = 64
_MAX_LABEL_KEY = 63
_MAX_LABEL = 255
_LONGEST_READY = timedelta(days=1)

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_EXAMPLE = ("market", "market.example")
"""For messages of a server without marketplaces."""

MarketRequest = pb.ReserveGPUsRequest | pb.ListGPUInstancesRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What stands for a field that the caller left empty, and the marketplaces that there are."""

    max_price: float
    """USD per GPU-hour."""
    lease_duration: timedelta | None = None
    """None: no end."""
    lease_grace: timedelta = timedelta(0)
    """For so long a machine is kept after an end that comes from `lease_duration`."""
    fingerprint_key: bytes = field(default=b"", repr=False)
    """Who has the database alone can't try out secrets of a demand against its fingerprint."""
    marketplaces: Mapping[str, str] = field(default_factory=dict)
    """The names of those that are installed, by prefix: offer ids begin with one of these, a contract id never does.

    The first one stands for a field that is empty where only one marketplace can be meant.
    """

    @property
    def grace(self) -> timedelta:
        """How long a machine is kept after its end, if the caller set no end."""
        return timedelta(0) if self.lease_duration is None else self.lease_grace

    @property
    def known(self) -> list[str]:
        """Every provider that a request may name."""
        return sorted(set(self.marketplaces.values()))

    @property
    def example(self) -> tuple[str, str]:
        """The prefix and the name of a marketplace, for messages."""
        return next(iter(self.marketplaces.items()), _EXAMPLE)


def reserve_demand(request: pb.ReserveGPUsRequest, defaults: Defaults) -> Demand:
    """A ReserveGPUs request; raises InvalidArgument."""
    found = Violations()
    spec = launch_spec(request, found)
    if not 1 <= request.count <= MAX_GPUS:
        found.add("count", f"must be 1 to {MAX_GPUS} GPUs, not {request.count}")
    demand = Demand(
        count=request.count,
        filter=replace(
            market_filter(request, defaults, found),
            min_cuda=found.number("min_cuda", request.min_cuda, 0, _MAX_CUDA) or cuda_of(spec.image),
            cuda_assumed=not request.min_cuda,
            min_compute_cap=compute_cap_of(spec.image),
            ports=len(spec.ports),
            exclude_hosts=_hosts(request.exclude_hosts, defaults, found),
            disk_gb=spec.disk_gb,
        ),
        spec=spec,
        strategy=found.word("strategy", request.strategy, STRATEGIES, ""),
        packing=cast("Packing", found.word("packing", request.packing, PACKINGS, "any")),
        same_model=request.same_model,
        same_country=request.same_country,
        defaulted=defaulted(request),
        min_count=_min_count(request, found),
        all_or_nothing=request.all_or_nothing,
        request_id=found.text("request_id", request.request_id, MAX_REQUEST_ID),
        lease_duration=(asked := _lease_duration(request, found)) or defaults.lease_duration,
        lease_grace=timedelta(0) if asked else defaults.grace,
        release_idle_after=_release_idle_after(request, found),
        keep_late=request.keep_late,
        wait_for=cast("Literal['created', 'ready']", found.word("wait_for", request.wait_for, _WAIT_FOR, "created")),
        ready_timeout=_duration(request, "ready_timeout", _LONGEST_READY, found) or DEFAULT_READY_TIMEOUT,
        on_not_ready=cast("OnNotReady", found.word("on_not_ready", request.on_not_ready, ON_NOT_READY, "replace")),
        wait=request.wait if request.HasField("wait") else True,
        labels=labels(request.labels, found),
        dry_run=request.dry_run,
        fingerprint=fingerprints.fingerprint(request, defaults.fingerprint_key),
        old_fingerprint=fingerprints.old_fingerprint(request),
        field_marks=fingerprints.field_marks(request, defaults.fingerprint_key),
    )
    found.finish()
    return demand


_WAIT_FOR = ("created", "ready")


def create_demand(request: pb.CreateGPUInstanceRequest, defaults: Defaults) -> Demand:
    """A CreateGPUInstance request, as a demand for one GPU: who knows the offer fills in its count.

    The offer was chosen by the caller, so only its price and its end are conditions. Raises InvalidArgument.
    """
    found = Violations()
    spec = launch_spec(request, found)
    named = provider("provider", request.provider, defaults, found)
    offer = _offer_id(request.instance_id, named, defaults, found)
    price = found.number("max_price", request.max_price, 0, HIGHEST_PRICE) or defaults.max_price
    demand = Demand(
        count=1,
        filter=OfferFilter(
            providers=named, max_price=price, verified_only=False, disk_gb=spec.disk_gb, offer_id=OfferId(offer)
        ),
        spec=spec,
        request_id=found.text("request_id", request.request_id, MAX_REQUEST_ID),
        lease_duration=defaults.lease_duration,
        lease_grace=defaults.grace,
        release_idle_after=_release_idle_after(request, found),
        fingerprint=fingerprints.fingerprint(request, defaults.fingerprint_key),
        old_fingerprint=fingerprints.old_fingerprint(request),
        field_marks=fingerprints.field_marks(request, defaults.fingerprint_key),
    )
    found.finish()
    return demand


def market_filter(request: MarketRequest, defaults: Defaults, found: Violations) -> OfferFilter:
    """The fields by which ReserveGPUs and ListGPUInstances choose alike."""
    return OfferFilter(
        providers=provider("provider", request.provider, defaults, found),
        min_vram=found.number("min_vram", request.min_vram, 0, _MAX_GB),
        max_price=found.number("max_price", request.max_price, 0, HIGHEST_PRICE) or defaults.max_price,
        gpu_model=found.text("gpu_model", request.gpu_model, _MAX_TEXT),
        location=found.text("location", request.location, _MAX_TEXT),
        verified_only=request.verified_only if request.HasField("verified_only") else True,
        min_reliability=found.number("min_reliability", request.min_reliability, 0, 1),
        min_cpu_cores=found.number("min_cpu_cores", request.min_cpu_cores, 0, _MAX_CORES),
        min_ram_gb=found.number("min_ram_gb", request.min_ram_gb, 0, _MAX_GB),
        min_disk_bandwidth=found.number("min_disk_bandwidth", request.min_disk_bandwidth, 0, _MAX_BANDWIDTH),
        min_inet_down=found.number("min_inet_down", request.min_inet_down, 0, _MAX_BANDWIDTH),
        min_inet_up=found.number("min_inet_up", request.min_inet_up, 0, _MAX_BANDWIDTH),
        max_traffic_price=_traffic_price(request, found),
    )


def defaulted(request: MarketRequest) -> frozenset[str]:
    """The fields that the caller left empty and whose default can exclude offers."""
    asked = {
        "verified_only": request.HasField("verified_only"),
        "max_price": request.max_price > 0,
        "disk_gb": request.disk_gb > 0,
    }
    return frozenset(name for name, given in asked.items() if not given)


def _traffic_price(request: MarketRequest, found: Violations) -> float | None:
    if not request.HasField("max_traffic_price"):
        return None
    return found.number("max_traffic_price", request.max_traffic_price, 0, _MAX_TRAFFIC_PRICE)


def listing_filter(request: pb.ListGPUInstancesRequest, defaults: Defaults, found: Violations) -> OfferFilter:
    """What ListGPUInstances shows of the market."""
    if not 0 <= request.num_gpus <= _MAX_CHUNK:
        found.add("num_gpus", f"must be 0 (any) to {_MAX_CHUNK}, not {request.num_gpus}")
    return replace(
        market_filter(request, defaults, found),
        num_gpus=request.num_gpus,
        disk_gb=disk_gb(request.disk_gb, found),
    )


def provider(field: str, name: str, defaults: Defaults, found: Violations) -> frozenset[ProviderName]:
    """The provider asked for; empty for all of them."""
    folded = name.strip().lower()
    if folded in ("", "all"):
        return frozenset()
    if folded not in defaults.known:
        found.add(field, f"must be one of {', '.join(defaults.known)}, all or empty, not {shown(name)}")
    return frozenset({ProviderName(folded)})


def contract_id(instance_id: str, defaults: Defaults, found: Violations) -> str:
    """The id of something rented; an offer's is refused, for it was never paid for."""
    stripped = instance_id.strip()
    if ids.is_secret(stripped):
        found.add("instance_id", ids.hint(stripped))
    elif ids.is_offer(stripped, defaults.marketplaces):
        found.add(
            "instance_id",
            f"{shown(stripped)} is an offer, which CreateGPUInstance takes; give the contract id of a rented instance "
            "(metadata contract_id)",
        )
    elif not _ID.fullmatch(stripped):
        found.add("instance_id", "must be a contract id: 1 to 128 letters, digits or _.:-")
    return stripped


def reservation_id(named: str, defaults: Defaults) -> str:
    """The id of a reservation; raises InvalidArgument."""
    stripped = named.strip()
    if ids.is_secret(stripped):
        raise InvalidArgument([Violation("reservation_id", ids.hint(stripped))])
    if ids.is_offer(stripped, defaults.marketplaces):
        text = f"{shown(stripped)} is an offer, which CreateGPUInstance takes; give the id of a reservation (res-...)"
        raise InvalidArgument([Violation("reservation_id", text)])
    if not _ID.fullmatch(stripped):
        raise InvalidArgument([Violation("reservation_id", "must be the id of a reservation: letters, digits or _.:-")])
    return stripped


def extend_until(request: pb.ExtendReservationRequest) -> datetime:
    """The new end; the database's clock decides whether it is in the future. Raises InvalidArgument."""
    if not request.HasField("expires_at"):
        raise InvalidArgument([Violation("expires_at", "is required: the new end, as in 2024-12-20T15:30:00Z")])
    found = Violations()
    end = moment("expires_at", request.expires_at, found)
    found.finish()
    return end


def labels(given: Mapping[str, str], found: Violations) -> tuple[tuple[str, str], ...]:
    """The caller's own labels, sorted, since a protobuf map keeps no order and the errors must not change by chance."""
    found.at_most("labels", "entries", len(given), _MAX_LABELS)
    entries = tuple(sorted(given.items()))
    for key, value in entries:
        if not 1 <= len(key) <= _MAX_LABEL_KEY or not key.isprintable():
            found.add("labels", f"a key must be 1 to {_MAX_LABEL_KEY} printable characters: {shown(key)}")
        elif len(value) > _MAX_LABEL or not value.isprintable():
            found.add(f"labels.{key}", f"must be at most {_MAX_LABEL} printable characters")
    return entries


def _offer_id(instance_id: str, named: frozenset[ProviderName], defaults: Defaults, found: Violations) -> str:
    stripped = instance_id.strip()
    prefix, _, native = stripped.partition("-")
    if prefix not in defaults.marketplaces or not _ID.fullmatch(native):
        example = f"{defaults.example[0]}-123"
        text = f"must be an offer's id from ListGPUInstances such as {example}{_not(stripped)}"
        found.add("instance_id", f"{text}. {said}" if (said := ids.hint(stripped)) else text)
    elif named and defaults.marketplaces[prefix] not in named:
        found.add("instance_id", f"{shown(stripped)} is not an offer of {', '.join(named)}")
    return stripped


def _not(value: str) -> str:
    """What was given instead, unless it is a secret."""
    return "" if ids.is_secret(value) else f", not {shown(value)}"


def _min_count(request: pb.ReserveGPUsRequest, found: Violations) -> int | None:
    if not request.HasField("min_count"):
        return None
    if not 1 <= request.min_count <= max(1, request.count):
        found.add("min_count", f"must be 1 to count ({request.count}), not {request.min_count}")
    return request.min_count


def _hosts(hosts: Collection[str], defaults: Defaults, found: Violations) -> frozenset[str]:
    found.at_most("exclude_hosts", "entries", len(hosts), _MAX_HOSTS)
    named = [found.text(f"exclude_hosts[{at}]", host, _MAX_TEXT).strip() for at, host in enumerate(hosts)]
    example = f"{defaults.example[1]}/12345"
    for at, host in enumerate(named):
        said = ids.hint(host, offer_prefixes=defaults.marketplaces)
        if not host or " " in host or said:
            text = f"must be a host_id such as {example}, or the machine's id alone{_not(host)}"
            found.add(f"exclude_hosts[{at}]", f"{text}. {said}" if said else text)
    return frozenset(named)


def _duration(
    request: pb.ReserveGPUsRequest | pb.CreateGPUInstanceRequest,
    field: Literal["lease_duration", "ready_timeout", "release_idle_after"],
    most: timedelta,
    found: Violations,
) -> timedelta:
    return duration(field, getattr(request, field), most, found)


def _lease_duration(request: pb.ReserveGPUsRequest, found: Violations) -> timedelta:
    asked = _duration(request, "lease_duration", MAX_LEASE_DURATION, found)
    if timedelta(0) < asked < MIN_LEASE_DURATION:
        least = int(MIN_LEASE_DURATION.total_seconds())
        found.add("lease_duration", f"must be at least {least} s, or 0 for the server's GPUPROXY_LEASE_DURATION")
    return asked


def _release_idle_after(request: pb.ReserveGPUsRequest | pb.CreateGPUInstanceRequest, found: Violations) -> timedelta:
    asked = _duration(request, "release_idle_after", MAX_LEASE_DURATION, found)
    if timedelta(0) < asked < MIN_RELEASE_IDLE:
        found.add("release_idle_after", f"must be at least {int(MIN_RELEASE_IDLE.total_seconds())} s, or 0 for never")
    return asked

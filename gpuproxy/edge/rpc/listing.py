"""ListGPUInstances: one page of the market, of the caller's instances, or of both, as ready bytes.

Offers are encoded once a refresh, by the catalog; an answer is their concatenation and a few fields more. The usual
answer (everything, in the usual order) is joined by the catalog and kept with its selection.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from gpuproxy.catalog import snapshot
from gpuproxy.catalog.refresh import Market, Selection
from gpuproxy.edge.messages import json_codec
from gpuproxy.edge.messages.translate import lease_element, offer_element, offer_json, rented, timestamp
from gpuproxy.edge.messages.translate_demand import Defaults, listing_filter
from gpuproxy.edge.messages.violations import Violations
from gpuproxy.edge.rpc.rpcs import Ready
from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.errors import InvalidArgument
from gpuproxy.model.gpus import gpu_matches
from gpuproxy.model.offers import DEFAULT_DISK_GB, Offer, OfferFilter, ProviderName, location_matches
from gpuproxy.reservations import pages
from gpuproxy.v1 import gpuproxy_pb2 as pb

ENCODING = "grpc"
"""The kind under which the catalog keeps what `translate.encode_offer` makes."""
JSON = "json"
"""And what `translate.offer_json` makes."""
MAX_PAGE = 5000
MAX_PAGE_BYTES = 3 * 1024 * 1024

_JSON_HEAD = b'{"instances":['
_STATES = ("available", "rented", "all")
_DEFAULT_ORDER = "price_per_gpu_hour"
_Entry = tuple[Offer | LeaseView, bytes]
"""What is listed, and its encoded form where that exists already."""


class _Place(NamedTuple):
    """Where something stands in a list; what is rented and what is on offer have the same shape."""

    section: int
    """Rented ones come first."""
    asked: float
    """What the caller orders by; 0 for the usual order."""
    usual: tuple[int, int, str, int, str]
    """What that order goes by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A checked request."""

    filter: OfferFilter
    state: str
    order: str
    descending: bool
    page_size: int
    after: _Place | None
    """Where the page before ended."""
    request: pb.ListGPUInstancesRequest
    """As it came: a page token is good for the same request only."""
    price_asked: bool

    @property
    def plain(self) -> bool:
        """Everything of the market at once, in the usual order."""
        return self.state == "available" and not self.page_size and self.after is None and self.unsorted

    @property
    def unsorted(self) -> bool:
        """The order is the one that offers already have."""
        return self.order == _DEFAULT_ORDER and not self.descending


def listing_of(request: pb.ListGPUInstancesRequest, defaults: Defaults) -> Listing:
    """The request, checked; raises InvalidArgument."""
    found = Violations()
    name, _, direction = request.order_by.strip().partition(" ")
    if direction.strip().lower() not in ("", "asc", "desc"):
        found.add("order_by", 'must be a field, alone or with " desc"')
    if request.page_size < 0:
        found.add("page_size", "must not be negative")
    listing = Listing(
        filter=listing_filter(request, defaults, found),
        state=found.word("state", request.state, _STATES, "available"),
        order=found.word("order_by", name, tuple(_ORDERS), _DEFAULT_ORDER),
        descending=direction.strip().lower() == "desc",
        page_size=min(request.page_size, MAX_PAGE),
        after=_after(request, found),
        request=request,
        price_asked=request.max_price > 0,
    )
    found.finish()
    return listing


def page(
    listing: Listing, mine: Sequence[LeaseView], market: Market | None, *, unreachable: Sequence[ProviderName] = ()
) -> Ready:
    """The encoded ListGPUInstancesResponse.

    `market` is None when only rented instances were asked for, or nobody can be reached who would say more.
    A page ends where its protobuf form is full, in JSON too: both faces have the same pages.
    """
    selection = market.select(listing.filter) if market else None
    if (
        market
        and selection
        and listing.plain
        and listing.filter.disk_gb == DEFAULT_DISK_GB
        and selection.total <= MAX_PAGE
    ):
        ending = _ending(market.as_of, _silent(market), selection.total, selection.available_gpus)
        body = selection.joined(ENCODING, ending.grpc)
        if len(body) <= MAX_PAGE_BYTES:
            return Ready(body, lambda: selection.joined(JSON, ending.json, head=_JSON_HEAD, between=b","))
    entries = _ordered(listing, [view for view in mine if _wanted(listing, view)], selection)
    start = pages.start(entries, listing.after, lambda entry: _place(listing, entry[0]))
    parts: list[bytes] = []
    size = 0
    for entry, ready in islice(entries, start, start + (listing.page_size or MAX_PAGE)):
        part = ready or _encoded(listing, entry)
        size += len(part)
        if parts and size > MAX_PAGE_BYTES:
            break
        parts.append(part)
    end = start + len(parts)
    more = parts and end < len(entries)
    token = pages.token(_digest(listing.request), _place(listing, entries[end - 1][0])) if more else ""
    rest = _rest(
        total=len(entries),
        token=token,
        as_of=market.as_of if market else None,
        unreachable=_silent(market) if market else unreachable,
        available_gpus=selection.available_gpus if selection else 0,
    )
    shown = [entry for entry, _ in entries[start:end]]
    return Ready(b"".join(parts) + rest.SerializeToString(), lambda: _in_json(listing, shown, selection, rest))


def _in_json(
    listing: Listing, shown: Sequence[Offer | LeaseView], selection: Selection | None, rest: pb.ListGPUInstancesResponse
) -> bytes:
    ready: Mapping[str, bytes] = {}
    if selection and listing.filter.disk_gb == DEFAULT_DISK_GB:
        ids = (offer.id for offer in selection.offers)
        ready = dict(zip(ids, selection.encoded(JSON), strict=True))
    parts = [ready.get(_id(entry)) or _as_json(listing, entry) for entry in shown]
    return _JSON_HEAD + b",".join(parts) + _json_tail(rest)


def _as_json(listing: Listing, entry: Offer | LeaseView) -> bytes:
    if isinstance(entry, Offer):
        return offer_json(entry, listing.filter.disk_gb)
    return json_codec.encode(rented(entry.lease, entry.cost))


def _json_tail(rest: pb.ListGPUInstancesResponse) -> bytes:
    """What follows the elements: `_rest` without its beginning, the empty list."""
    return json_codec.encode(rest).removeprefix(_JSON_HEAD)


@dataclass(frozen=True, slots=True)
class _Ending:
    """What follows the elements of an answer, for both faces."""

    grpc: bytes
    json: bytes


@lru_cache(maxsize=256)
def _ending(as_of: datetime, unreachable: tuple[ProviderName, ...], total: int, available_gpus: int) -> _Ending:
    """The same for every answer from the same snapshot that has as many offers."""
    rest = _rest(as_of=as_of, unreachable=unreachable, total=total, available_gpus=available_gpus)
    return _Ending(rest.SerializeToString(), _json_tail(rest))


def _silent(market: Market) -> tuple[ProviderName, ...]:
    return tuple(name for name, _ in market.unreachable)


def _rest(
    *, as_of: datetime | None, unreachable: Sequence[ProviderName], total: int, available_gpus: int, token: str = ""
) -> pb.ListGPUInstancesResponse:
    """Everything of the answer but its elements."""
    return pb.ListGPUInstancesResponse(
        total_count=total,
        next_page_token=token,
        as_of=timestamp(as_of) if as_of else None,
        unreachable=unreachable,
        available_gpus=available_gpus,
    )


def _ordered(listing: Listing, mine: Sequence[LeaseView], selection: Selection | None) -> list[_Entry]:
    """In the order of their places: a selection is in the usual order already."""
    rented: list[_Entry] = [(view, b"") for view in sorted(mine, key=lambda view: _place(listing, view))]
    offers: list[_Entry] = []
    if selection:
        ready = listing.filter.disk_gb == DEFAULT_DISK_GB
        offers = list(
            zip(selection.offers, selection.encoded(ENCODING) if ready else [b""] * selection.total, strict=True)
        )
    if not listing.unsorted:
        offers.sort(key=lambda entry: _asked_place(listing, entry[0]))
    return rented + offers


def _encoded(listing: Listing, entry: Offer | LeaseView) -> bytes:
    return offer_element(entry, listing.filter.disk_gb) if isinstance(entry, Offer) else lease_element(entry)


def _id(entry: Offer | LeaseView) -> str:
    return entry.id if isinstance(entry, Offer) else entry.lease.id


def _place(listing: Listing, entry: Offer | LeaseView) -> _Place:
    asked = 0 if listing.unsorted else _asked_place(listing, entry)
    if isinstance(entry, Offer):
        return _Place(1, asked, snapshot.place(entry, listing.filter.disk_gb))
    known, created, lease_id = entry.place
    return _Place(0, asked, (known, created, "", 0, lease_id))


def _asked_place(listing: Listing, entry: Offer | LeaseView) -> float:
    place = _ORDERS[listing.order](entry, listing.filter.disk_gb)
    return -place if listing.descending else place


def _price(entry: Offer | LeaseView, disk_gb: float) -> float:
    return entry.price(disk_gb) if isinstance(entry, Offer) else entry.lease.price


def _price_per_gpu(entry: Offer | LeaseView, disk_gb: float) -> float:
    return _price(entry, disk_gb) / (entry.num_gpus if isinstance(entry, Offer) else entry.lease.num_gpus)


def _vram(entry: Offer | LeaseView, _disk_gb: float) -> float:
    return entry.vram_gb if isinstance(entry, Offer) else entry.lease.vram_gb


def _reliability(entry: Offer | LeaseView, _disk_gb: float) -> float:
    return entry.reliability_ppm if isinstance(entry, Offer) else 0


_ORDERS: Mapping[str, Callable[[Offer | LeaseView, float], float]] = {
    _DEFAULT_ORDER: _price_per_gpu,
    "price_per_hour": _price,
    "vram_gb": _vram,
    "reliability": _reliability,
}


def _wanted(listing: Listing, view: LeaseView) -> bool:
    """What is paid for is hidden only by what the caller asked for himself, never by a default."""
    lease, wanted = view.lease, listing.filter
    return (
        (not wanted.providers or lease.provider in wanted.providers)
        and lease.vram_gb >= wanted.min_vram
        and (not wanted.num_gpus or lease.num_gpus == wanted.num_gpus)
        and (not wanted.gpu_model or gpu_matches(wanted.gpu_model, lease.gpu_model))
        and (not wanted.location or location_matches(wanted.location, lease.location))
        and (not listing.price_asked or lease.price <= wanted.ceiling(lease.num_gpus))
    )


def _digest(request: pb.ListGPUInstancesRequest) -> str:
    """What a request is recognised by, whatever page of it is asked for."""
    asked = deepcopy(request)
    asked.ClearField("page_token")
    asked.ClearField("page_size")
    return pages.digest("ListGPUInstances", asked.SerializeToString(deterministic=True))


def _after(request: pb.ListGPUInstancesRequest, found: Violations) -> _Place | None:
    if not request.page_token:
        return None
    try:
        return pages.after(request.page_token, _digest(request), _Place)
    except InvalidArgument as refused:
        for each in refused.violations:
            found.add(each.field, each.description)
        return None

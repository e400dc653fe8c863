"""ListGPUInstances: one page of offers, of the caller's instances, or of both, as encoded bytes.

The catalog encodes each offer once per refresh. An answer is the concatenation of these bytes and a few more fields.
For the most common query (all offers in the default order), the catalog caches the concatenation too.
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
from gpuproxy.edge.messages.demands import Defaults, defaulted, listing_filter
from gpuproxy.edge.messages.instances import lease_element, of_view, offer_element, offer_json
from gpuproxy.edge.messages.times import timestamp
from gpuproxy.edge.messages.violations import Violations
from gpuproxy.edge.rpc.rpcs import Ready
from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.errors import InvalidArgument
from gpuproxy.model.gpus import gpu_matches
from gpuproxy.model.offers import DEFAULT_DISK_GB, Offer, OfferFilter, ProviderName, location_matches
from gpuproxy.reservations import pages
from gpuproxy.v1 import gpuproxy_pb2 as pb

ENCODING = "grpc"
"""The catalog's name for the encoding by `instances.encode_offer`."""
JSON = "json"
"""The catalog's name for the encoding by `instances.offer_json`."""
MAX_PAGE = 5000
MAX_PAGE_BYTES = 3 * 1024 * 1024

_JSON_HEAD = b'{"instances":['
_MAX_KNOWN, _MAX_KNOWN_BYTES = 256, 1024
_STATES = ("available", "rented", "all")
_DEFAULT_ORDER = "price_per_gpu_hour"
_Entry = tuple[Offer | LeaseView, bytes]
"""An offer or a rented instance, and its encoded form; b"" if it isn't encoded yet."""


class _SortKey(NamedTuple):
    """The position of an entry in a list; offers and rented instances have keys of the same shape."""

    section: int
    """0 for rented instances, which come first; 1 for offers."""
    requested: float
    """The value of the field in order_by; 0 for the default order."""
    default: tuple[int, int, str, int, str]
    """The key of the default order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """A validated request."""

    filter: OfferFilter
    state: str
    order: str
    descending: bool
    page_size: int
    after: _SortKey | None
    """The last entry of the previous page; None for the first page."""
    request: pb.ListGPUInstancesRequest
    """The original request: a page token is valid only for the same request."""
    defaulted: frozenset[str]
    """The fields that are not set and whose default can exclude offers."""

    @property
    def plain(self) -> bool:
        """True for all offers on one page, in the default order."""
        return self.state == "available" and not self.page_size and self.after is None and self.unsorted

    @property
    def unsorted(self) -> bool:
        """True if the requested order is the default order, which the catalog's offers already have."""
        return self.order == _DEFAULT_ORDER and not self.descending


class Queries:
    """Validated requests by their bytes: clients that poll send the same request again and again."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._known: dict[bytes, ListQuery] = {}

    def of(self, request: pb.ListGPUInstancesRequest) -> ListQuery:
        """As `list_query`."""
        raw = request.SerializeToString()
        known = self._known.get(raw)
        if known is None:
            known = list_query(request, self._defaults)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            if len(raw) <= _MAX_KNOWN_BYTES:
                self._known[raw] = known
        return known


def list_query(request: pb.ListGPUInstancesRequest, defaults: Defaults) -> ListQuery:
    """The validated request; raises InvalidArgument."""
    found = Violations()
    name, _, direction = request.order_by.strip().partition(" ")
    if direction.strip().lower() not in ("", "asc", "desc"):
        found.add("order_by", 'must be a field name, optionally followed by " desc"')
    if request.page_size < 0:
        found.add("page_size", "must not be negative")
    query = ListQuery(
        filter=listing_filter(request, defaults, found),
        state=found.word("state", request.state, _STATES, "available"),
        order=found.word("order_by", name, tuple(_ORDERS), _DEFAULT_ORDER),
        descending=direction.strip().lower() == "desc",
        page_size=min(request.page_size, MAX_PAGE),
        after=_after(request, found),
        request=request,
        defaulted=defaulted(request),
    )
    found.finish()
    return query


def page(
    query: ListQuery, mine: Sequence[LeaseView], market: Market | None, *, unreachable: Sequence[ProviderName] = ()
) -> Ready:
    """The encoded ListGPUInstancesResponse.

    `market` is None if the request is for rented instances only, or if no marketplace can be reached.
    A page ends when its protobuf form is full, in JSON too, so that both interfaces have the same pages.
    """
    selection = market.select(query.filter) if market else None
    if market and selection and query.plain and query.filter.disk_gb == DEFAULT_DISK_GB and selection.total <= MAX_PAGE:
        tail = _tail(
            market.as_of, _unreachable(market), selection.total, selection.available_gpus, _defaults(query, selection)
        )
        body = selection.joined(ENCODING, tail.grpc)
        if len(body) <= MAX_PAGE_BYTES:
            return Ready(body, lambda: selection.joined(JSON, tail.json, head=_JSON_HEAD, between=b","))
    entries = _ordered(query, [view for view in mine if _matches(query, view)], selection)
    start = pages.start(entries, query.after, lambda entry: _sort_key(query, entry[0]))
    parts: list[bytes] = []
    size = 0
    for entry, encoded in islice(entries, start, start + (query.page_size or MAX_PAGE)):
        part = encoded or _encoded(query, entry)
        size += len(part)
        if parts and size > MAX_PAGE_BYTES:
            break
        parts.append(part)
    end = start + len(parts)
    more = parts and end < len(entries)
    token = pages.token(_fingerprint(query.request), _sort_key(query, entries[end - 1][0])) if more else ""
    rest = _rest(
        total=len(entries),
        token=token,
        as_of=market.as_of if market else None,
        unreachable=_unreachable(market) if market else unreachable,
        available_gpus=selection.available_gpus if selection else 0,
        message=_defaults(query, selection) if selection else "",
    )
    shown = [entry for entry, _ in entries[start:end]]
    return Ready(b"".join(parts) + rest.SerializeToString(), lambda: _in_json(query, shown, selection, rest))


def _in_json(
    query: ListQuery, shown: Sequence[Offer | LeaseView], selection: Selection | None, rest: pb.ListGPUInstancesResponse
) -> bytes:
    encoded: Mapping[str, bytes] = {}
    if selection and query.filter.disk_gb == DEFAULT_DISK_GB:
        ids = (offer.id for offer in selection.offers)
        encoded = dict(zip(ids, selection.encoded(JSON), strict=True))
    parts = [encoded.get(_id(entry)) or _as_json(query, entry) for entry in shown]
    return _JSON_HEAD + b",".join(parts) + _json_tail(rest)


def _as_json(query: ListQuery, entry: Offer | LeaseView) -> bytes:
    if isinstance(entry, Offer):
        return offer_json(entry, query.filter.disk_gb)
    return json_codec.encode(of_view(entry))


def _json_tail(rest: pb.ListGPUInstancesResponse) -> bytes:
    """What follows the elements: the JSON of `rest` without its beginning, the empty list."""
    return json_codec.encode(rest).removeprefix(_JSON_HEAD)


@dataclass(frozen=True, slots=True)
class _Tail:
    """What follows the elements of an answer, in each encoding."""

    grpc: bytes
    json: bytes


@lru_cache(maxsize=256)
def _tail(
    as_of: datetime, unreachable: tuple[ProviderName, ...], total: int, available_gpus: int, message: str
) -> _Tail:
    """Cached: it is the same for all answers from one snapshot with the same totals."""
    rest = _rest(as_of=as_of, unreachable=unreachable, total=total, available_gpus=available_gpus, message=message)
    return _Tail(rest.SerializeToString(), _json_tail(rest))


def _unreachable(market: Market) -> tuple[ProviderName, ...]:
    return tuple([name for name, _ in market.unreachable])


def _rest(
    *,
    as_of: datetime | None,
    unreachable: Sequence[ProviderName],
    total: int,
    available_gpus: int,
    message: str,
    token: str = "",
) -> pb.ListGPUInstancesResponse:
    """The answer without its elements."""
    return pb.ListGPUInstancesResponse(
        total_count=total,
        next_page_token=token,
        as_of=timestamp(as_of) if as_of else None,
        unreachable=unreachable,
        available_gpus=available_gpus,
        message=message,
    )


def _defaults(query: ListQuery, selection: Selection) -> str:
    """The defaults that stand for fields of the request that are not set, and how many offers each of them left out."""
    values = {
        "verified_only": "verified hosts only",
        "max_price": f"at most ${query.filter.max_price:.2f} per GPU-hour",
        "disk_gb": f"{DEFAULT_DISK_GB:g} GB of disk",
    }
    left_out = selection.rejected
    parts = [
        f"{what} ({name}{_left_out(left_out.get(name, 0))})" for name, what in values.items() if name in query.defaulted
    ]
    return f"Defaults applied: {', '.join(parts)}." if parts else ""


def _left_out(offers: int) -> str:
    return f", leaves out {offers} offer{'' if offers == 1 else 's'}" if offers else ""


def _ordered(query: ListQuery, mine: Sequence[LeaseView], selection: Selection | None) -> list[_Entry]:
    """All entries in the requested order. A selection is already in the default order."""
    rented: list[_Entry] = [(view, b"") for view in sorted(mine, key=lambda view: _sort_key(query, view))]
    offers: list[_Entry] = []
    if selection:
        default_disk = query.filter.disk_gb == DEFAULT_DISK_GB
        encoded = selection.encoded(ENCODING) if default_disk else [b""] * selection.total
        offers = list(zip(selection.offers, encoded, strict=True))
    if not query.unsorted:
        offers.sort(key=lambda entry: _requested_key(query, entry[0]))
    return rented + offers


def _encoded(query: ListQuery, entry: Offer | LeaseView) -> bytes:
    return offer_element(entry, query.filter.disk_gb) if isinstance(entry, Offer) else lease_element(entry)


def _id(entry: Offer | LeaseView) -> str:
    return entry.id if isinstance(entry, Offer) else entry.lease.id


def _sort_key(query: ListQuery, entry: Offer | LeaseView) -> _SortKey:
    requested = 0 if query.unsorted else _requested_key(query, entry)
    if isinstance(entry, Offer):
        return _SortKey(1, requested, snapshot.place(entry, query.filter.disk_gb))
    known, created, lease_id = entry.place
    return _SortKey(0, requested, (known, created, "", 0, lease_id))


def _requested_key(query: ListQuery, entry: Offer | LeaseView) -> float:
    value = _ORDERS[query.order](entry, query.filter.disk_gb)
    return -value if query.descending else value


def _price(entry: Offer | LeaseView, disk_gb: float) -> float:
    return entry.price(disk_gb) if isinstance(entry, Offer) else entry.lease.observed.price


def _price_per_gpu(entry: Offer | LeaseView, disk_gb: float) -> float:
    gpus = entry.num_gpus if isinstance(entry, Offer) else entry.lease.offered.num_gpus
    return _price(entry, disk_gb) / gpus if gpus else 0.0  # a volume has none


def _vram(entry: Offer | LeaseView, _disk_gb: float) -> float:
    return entry.vram_gb if isinstance(entry, Offer) else entry.lease.offered.vram_gb


def _reliability(entry: Offer | LeaseView, _disk_gb: float) -> float:
    return entry.reliability_ppm if isinstance(entry, Offer) else 0


_ORDERS: Mapping[str, Callable[[Offer | LeaseView, float], float]] = {
    _DEFAULT_ORDER: _price_per_gpu,
    "price_per_hour": _price,
    "vram_gb": _vram,
    "reliability": _reliability,
}


def _matches(query: ListQuery, view: LeaseView) -> bool:
    """True if a rented instance matches the filters that the caller set. Defaults never hide a rented instance."""
    lease, wanted = view.lease, query.filter
    return (
        (not wanted.providers or lease.provider in wanted.providers)
        and lease.offered.vram_gb >= wanted.min_vram
        and (not wanted.num_gpus or lease.offered.num_gpus == wanted.num_gpus)
        and (not wanted.gpu_model or gpu_matches(wanted.gpu_model, lease.offered.gpu_model))
        and (not wanted.location or location_matches(wanted.location, lease.offered.location))
        and ("max_price" in query.defaulted or lease.observed.price <= wanted.ceiling(lease.offered.num_gpus))
    )


def _fingerprint(request: pb.ListGPUInstancesRequest) -> str:
    """A digest of the request without its page fields: it is the same for all pages of one query."""
    asked = deepcopy(request)
    asked.ClearField("page_token")
    asked.ClearField("page_size")
    return pages.digest("ListGPUInstances", asked.SerializeToString(deterministic=True))


def _after(request: pb.ListGPUInstancesRequest, found: Violations) -> _SortKey | None:
    if not request.page_token:
        return None
    try:
        return pages.after(request.page_token, _fingerprint(request), _SortKey)
    except InvalidArgument as refused:
        for each in refused.violations:
            found.add(each.field, each.description)
        return None

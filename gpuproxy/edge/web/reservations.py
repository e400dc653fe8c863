"""The pages of reservations: the list, and one with its machines and its timeline; extend and release."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.edge.web.now import billed
from gpuproxy.edge.web.visits import ROOT, Visit, part
from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.model.reservations import TimelineEntry
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.warmpool.provisioning import LABEL

_PAGE = 50
STATES = ("pending", "starting", "active", "partial", "releasing", "released", "failed")
_MAX_HOURS = 24 * 366


async def listed(visit: Visit) -> web.Response:
    """A page of reservations, newest first."""
    query = visit.query
    request = pb.ListReservationsRequest(
        page_size=_PAGE, page_token=query.get("page_token", ""), state=query.get("state", "")
    )
    found = await visit.call(request, pb.ListReservationsResponse)
    more = ""
    if found.next_page_token:
        kept = {name: query[name] for name in ("state",) if name in query}
        more = str(visit.request.rel_url.with_query({**kept, "page_token": found.next_page_token}))
    return visit.page("reservations.html", found=found, more=more, state=request.state, states=STATES)


async def page(visit: Visit) -> web.Response:
    """One reservation."""
    values = await _values(visit)
    pool, project = await _pool(visit, values["reservation"])
    return visit.page("reservation.html", pool=pool, pool_project=project, **values)


async def live(visit: Visit) -> web.StreamResponse:
    """The live part of it."""

    async def fragment() -> str:
        return visit.text("_reservation.html", **await _values(visit))

    return await visit.live(fragment)


async def extend(visit: Visit) -> web.Response:
    """Move the end by some hours. The form has the end that it was shown with, so a repeat buys nothing twice."""
    hours = _hours(visit.form.get("hours", ""))
    before, end = _end(visit.form.get("from", ""), visit.site.clock.now()), Timestamp()
    try:
        end.FromDatetime(before + timedelta(hours=hours))
    except OverflowError:
        raise InvalidArgument([Violation("hours", "gives an end after the year 9999")]) from None
    await visit.call(
        pb.ExtendReservationRequest(reservation_id=_id(visit), expires_at=end), pb.ExtendReservationResponse
    )
    return visit.to(_path(visit))


async def release(visit: Visit) -> web.Response:
    """Release all machines of the reservation."""
    await visit.call(pb.ReleaseReservationRequest(reservation_id=_id(visit)), pb.ReleaseReservationResponse)
    return visit.to(_path(visit))


async def _values(visit: Visit) -> Mapping[str, Any]:
    answer = await visit.call(pb.GetReservationRequest(reservation_id=_id(visit)), pb.GetReservationResponse, poll=True)
    reservation = answer.reservation
    attempts = {each.lease_id: each.attempt for each in reservation.outcomes}
    return {
        "reservation": reservation,
        "timeline": _changes(await visit.site.calls.timeline(reservation.reservation_id, visit.session.metadata)),
        "attempts": attempts,
        "open": [each for each in reservation.outcomes if each.state in ("failed", "not_attempted", "unknown")],
        "over": reservation.state in ("released", "failed"),
        "billed": billed,
    }


async def _pool(visit: Visit, reservation: pb.Reservation) -> tuple[str, str]:
    """The number of the warm pool whose machines these are, and its project; both "" if it is no pool's reservation.

    A pool's page shows pools of the caller's project only. An admin may have an own pool with the same number there.
    """
    if not reservation.reservation_id.startswith("pool-"):
        return "", ""
    project = await visit.site.calls.project(reservation.reservation_id, visit.session.metadata)
    return reservation.labels.get(LABEL, ""), project


def _changes(entries: Sequence[TimelineEntry]) -> list[TimelineEntry]:
    """Without those entries of the reservation that show nothing new: each change of a machine writes one."""
    kept: list[TimelineEntry] = []
    last: tuple[object, ...] = ()
    for entry in entries:
        shown = (entry.state, entry.reason, entry.expires_at)
        if entry.lease_id or shown != last:
            kept.append(entry)
        last = last if entry.lease_id else shown
    return kept


def _id(visit: Visit) -> str:
    return visit.request.match_info["id"]


def _path(visit: Visit) -> str:
    return f"{ROOT}reservations/{part(_id(visit))}"


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= _MAX_HOURS:
        raise InvalidArgument([Violation("hours", f"must be a number above 0 and at most {_MAX_HOURS}")])
    return hours


def _end(text: str, now: datetime) -> datetime:
    """The end that the form was shown with, which is in UTC; now if there was none."""
    try:
        shown = datetime.fromisoformat(text) if text else now
        return shown.replace(tzinfo=UTC) if shown.tzinfo is None else shown.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument([Violation("from", "must be a time")]) from None

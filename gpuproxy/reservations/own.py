"""Finding a reservation that a caller may see."""

from collections.abc import Mapping

from gpuproxy.model import ids
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.model.leases import ReservationId
from gpuproxy.model.reservations import Reservation
from gpuproxy.ports import Tx
from gpuproxy.store import reservations

_MEANT = "request_id_of"


def own(tx: Tx, caller: Caller, reservation_id: str) -> Reservation:
    """The reservation of a caller; raises NotFound."""
    found = reservations.find(tx, ReservationId(reservation_id))
    if found is None or not caller.sees(found.project):
        meant = meant_by(tx, caller, reservation_id)
        text = f"You have no reservation {reservation_id}. {_what_it_is(reservation_id, meant)}"
        raise NotFound(text, metadata={"reservation_id": reservation_id, **meant})
    return found


def meant_by(tx: Tx, caller: Caller, request_id: str) -> dict[str, str]:
    """Metadata of an error, with the reservation of the caller's project that has this request_id; empty without one.

    Also for an admin it is the caller's own project, as in ReserveGPUs: other projects have request_ids of their own.
    """
    named = reservations.by_request(tx, caller.project, request_id)
    return {} if named is None else {_MEANT: named.id}


def _what_it_is(other_id: str, meant: Mapping[str, str]) -> str:
    """What the caller may have named instead of a reservation."""
    if meant:
        return f"This is the request_id of reservation {meant[_MEANT]}: use that id."
    if other_id.startswith("res-"):
        return "ListReservations lists your reservations."
    return ids.hint(other_id) or (
        "The id of a reservation begins with `res-`. If this is a contract id, GetGPUInstance shows the instance and "
        "its reservation_id."
    )

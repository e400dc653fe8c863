"""Finding a reservation that a caller may see."""

from gpuproxy.model import ids
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.model.leases import ReservationId
from gpuproxy.model.reservations import Reservation
from gpuproxy.ports import Tx
from gpuproxy.store import reservations


def own(tx: Tx, caller: Caller, reservation_id: str) -> Reservation:
    """The reservation of a caller; raises NotFound."""
    found = reservations.find(tx, ReservationId(reservation_id))
    if found is None or not caller.sees(found.project):
        text = f"You have no reservation {reservation_id}. {_what_it_is(tx, caller, reservation_id)}"
        raise NotFound(text, metadata={"reservation_id": reservation_id})
    return found


def _what_it_is(tx: Tx, caller: Caller, other_id: str) -> str:
    """What the caller may have named instead of a reservation."""
    if (named := reservations.by_request(tx, caller.project, other_id)) is not None:
        return f"This is the request_id of reservation {named.id}: use that id."
    if other_id.startswith("res-"):
        return "ListReservations lists your reservations."
    return ids.hint(other_id) or (
        "The id of a reservation begins with `res-`. If this is a contract id, GetGPUInstance shows the instance and "
        "its reservation_id."
    )

"""The warning about machines and volumes that carry our label and that the database does not know."""

from collections.abc import Mapping, Sequence

import structlog

from gpuproxy.model.leases import InstanceId, LeaseKind
from gpuproxy.model.offers import AccountKey
from gpuproxy.outcomes.sweep import ORPHAN_AGE

log = structlog.get_logger(__name__)

_EFFECTS: Mapping[LeaseKind, str] = {
    "machine": "They carry our label, but the database does not know them. They are destroyed after this time. If the "
    "database was restored and you need them, stop the server before that.",
    "volume": "They are volumes with our label that the database does not know. They are billed and never deleted by "
    "this server, because they may have data. Delete them at the marketplace if nobody needs them.",
}


def warn_of_orphans(account: AccountKey, found: Sequence[InstanceId], kind: LeaseKind) -> None:
    """Warn, for machines long before they are destroyed: an operator may have restored an old copy of the database."""
    minutes = {"minutes_left": ORPHAN_AGE.total_seconds() / 60} if kind == "machine" else {}
    log.warning(
        "orphans_found",
        provider=account[0],
        account=account[1],
        instances=list(found),
        effect=_EFFECTS[kind],
        **minutes,
    )

"""Whether a machine ends itself after its end although the server is gone: what is shown of it.

A part of the boot script does it (docs/lease-endings.md). What became of that part is stored with the other parts.
"""

from gpuproxy.model.leases import BOOT_REQUESTED, Lease, LeaseState

PART = "ending"
"""The name of the part of the boot script."""
CAPABILITY = "container_key"
"""The capability of a marketplace whose machines can read their own label, and stop and destroy themselves."""
CONFIRMED, SENT = "confirmed", "sent"
_WATCHING = "watching"
_UNSUPPORTED = "unsupported"
_NO_END = "no_end"
STOPPED = "stopped"
_BOOKED = "the marketplace ends it with its booking"
_NEVER_ASKED = "it was rented without it"


def is_on(lease: Lease) -> bool:
    """True if the label of the lease's machine carries its end."""
    return lease.instance_id is not None and carries_end(lease)


def carries_end(lease: Lease) -> bool:
    """True if the label with which the machine is created, or was created, carries its end."""
    word = dict(lease.observed.boot).get(PART, _UNSUPPORTED)
    return lease.expires_at is not None and not word.startswith(_UNSUPPORTED)


def is_interrupted(lease: Lease) -> bool:
    """True while nothing watches the end of the lease because its machine is stopped."""
    word = dict(lease.observed.boot).get(PART)
    return lease.state is LeaseState.PARKED and word in (_WATCHING, BOOT_REQUESTED)


def state(lease: Lease) -> str:
    """`confirmed`: the machine reported that it watches its end. `sent`: no report was read yet.

    `unsupported: <why>` otherwise, also while the machine is stopped; "" for a volume.
    """
    if lease.kind != "machine":
        return ""
    word = dict(lease.observed.boot).get(PART)
    if is_interrupted(lease):
        return f"{_UNSUPPORTED}: {STOPPED}"
    if word == _WATCHING:
        return CONFIRMED
    if word == BOOT_REQUESTED:
        return SENT
    if word is not None:
        return f"{_UNSUPPORTED}: {word.removeprefix(_UNSUPPORTED).strip().replace('not reported', 'not_reported')}"
    if lease.is_prepaid:
        return f"{_UNSUPPORTED}: {_BOOKED}"
    return f"{_UNSUPPORTED}: {_NO_END if lease.expires_at is None else _NEVER_ASKED}"

"""Every reason that clients read, with the gRPC status of a call that is refused with it and its texts in docs/api.md.

A reason is stored with leases and reservations, so a value is never removed or renamed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a call was refused, a create failed, a machine was released, or renting stopped. `NONE` is for no reason."""

    NONE = ""
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    NOT_ENOUGH_GPUS = "NOT_ENOUGH_GPUS"
    NOT_ALL_RESERVED = "NOT_ALL_RESERVED"
    INSTANCE_CREATION_FAILED = "INSTANCE_CREATION_FAILED"
    PROVIDER_FUNDS = "PROVIDER_FUNDS"
    PROVIDER_CREDENTIALS = "PROVIDER_CREDENTIALS"
    TOO_MANY_SSH_KEYS = "TOO_MANY_SSH_KEYS"
    NO_ACCOUNT = "NO_ACCOUNT"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    RESERVATION_OVER = "RESERVATION_OVER"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    CONTRACT_ENDED = "CONTRACT_ENDED"
    WRONG_STATE = "WRONG_STATE"
    NO_CAPACITY = "NO_CAPACITY"
    ANSWER_TOO_LARGE = "ANSWER_TOO_LARGE"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    PROVIDERS_UNREACHABLE = "PROVIDERS_UNREACHABLE"
    CREATE_QUEUE = "CREATE_QUEUE"
    STORM_BREAKER = "STORM_BREAKER"
    DATABASE = "DATABASE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"
    OFFER_GONE = "OFFER_GONE"
    PRICE_MOVED = "PRICE_MOVED"
    RATE_LIMITED = "RATE_LIMITED"
    PROVIDER_REFUSED = "PROVIDER_REFUSED"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    HOST_REFUSED = "HOST_REFUSED"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    PROVIDER_ERROR = "PROVIDER_ERROR"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    NOT_ATTEMPTED = "NOT_ATTEMPTED"
    INTERRUPTED = "INTERRUPTED"
    NEVER_CREATED = "NEVER_CREATED"
    WRONG_GPU = "WRONG_GPU"
    IMAGE_UNUSABLE = "IMAGE_UNUSABLE"
    HOST_BROKEN = "HOST_BROKEN"
    NOT_READY = "NOT_READY"
    CALLER_GONE = "CALLER_GONE"
    CAME_TOO_LATE = "CAME_TOO_LATE"
    SURPLUS = "SURPLUS"
    ORPHAN = "ORPHAN"
    REAPPEARED = "REAPPEARED"
    EXPIRED = "EXPIRED"
    IDLE = "IDLE"
    RELEASED = "RELEASED"
    DESTROYED = "DESTROYED"
    COMMON_CAUSE = "COMMON_CAUSE"
    REPLACEMENT_LIMIT = "REPLACEMENT_LIMIT"
    UNREADABLE_ROWS = "UNREADABLE_ROWS"
    ORPHANS_FOUND = "ORPHANS_FOUND"
    IN_WARM_POOL = "IN_WARM_POOL"
    NO_SPEC = "NO_SPEC"
    POOL_STATE = "POOL_STATE"
    POOL_EXISTS = "POOL_EXISTS"
    FAILOVER_FAILED = "FAILOVER_FAILED"
    PROVISION_FAILED = "PROVISION_FAILED"
    DESTROYS_PRIMARY = "DESTROYS_PRIMARY"
    VOLUME_IN_USE = "VOLUME_IN_USE"
    POOL_CHANGED = "POOL_CHANGED"
    BOOKING_ENDED = "BOOKING_ENDED"
    BOOKING_NOT_FOUND = "BOOKING_NOT_FOUND"
    PROBE_RUNNING = "PROBE_RUNNING"

    @property
    def meaning(self) -> "Meaning":
        """The status and the texts of the reason."""
        return _MEANINGS[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a reason means to clients. The texts are Markdown."""

    status: str = ""
    """The name of the gRPC status of a call that is refused with this reason; "" if no call is."""
    refusal: str = ""
    """What the refusal means and what to do; "" if `outcome` says it."""
    outcome: str = ""
    """What the reason means for a single create or machine; "" if none ends with it."""
    stop: str = ""
    """Why no more machines are rented for a reservation, and what to do; "" if it stops nothing."""


_MEANINGS: Mapping[Reason, Meaning] = {
    Reason.NONE: Meaning(),
    Reason.INVALID_ARGUMENT: Meaning(status="INVALID_ARGUMENT", refusal="Correct the fields that the violations name."),
    Reason.UNAUTHENTICATED: Meaning(
        status="UNAUTHENTICATED",
        refusal="Send a valid key or token. For Login, send the right password, or wait.",
    ),
    Reason.PERMISSION_DENIED: Meaning(
        status="PERMISSION_DENIED",
        refusal="Use a key or token whose role allows the call.",
    ),
    Reason.NOT_FOUND: Meaning(status="NOT_FOUND", refusal="Your project has no such resource."),
    Reason.TOO_MANY_CALLS: Meaning(
        status="RESOURCE_EXHAUSTED",
        refusal="Nothing happened. Repeat the call after a second. There were more calls than "
        "`GPUPROXY_MAX_CONCURRENT_RPCS`, more than 32 logins at once, or more than 8 logins from one address.",
    ),
    Reason.NOT_IMPLEMENTED: Meaning(status="UNIMPLEMENTED", refusal="The call is not built yet."),
    Reason.METHOD_NOT_ALLOWED: Meaning(
        status="UNIMPLEMENTED",
        refusal="Only over HTTP (405). The header Allow lists the methods of the address.",
    ),
    Reason.NOT_ENOUGH_GPUS: Meaning(
        status="FAILED_PRECONDITION",
        refusal="Nothing was rented. Ask for fewer GPUs, pay more, or wait. The message says what is available and "
        "which filters left offers out: [reservations.md](reservations.md#which-offers-are-used).",
    ),
    Reason.NOT_ALL_RESERVED: Meaning(
        status="FAILED_PRECONDITION",
        refusal="Fewer GPUs than `min_count` (or than all) could be kept. Everything was released.",
    ),
    Reason.INSTANCE_CREATION_FAILED: Meaning(
        status="INTERNAL",
        refusal="Nothing is kept: every create is proven failed, or its machine is released. The message says why.",
    ),
    Reason.PROVIDER_FUNDS: Meaning(
        status="FAILED_PRECONDITION",
        refusal="The marketplace account lacks credit. The server pauses it for three minutes.",
        outcome="The account lacks credit.",
    ),
    Reason.PROVIDER_CREDENTIALS: Meaning(
        status="FAILED_PRECONDITION",
        refusal="The marketplace refuses the server's key or session. The account is paused.",
        outcome="The marketplace refuses the account's key or session.",
    ),
    Reason.TOO_MANY_SSH_KEYS: Meaning(
        status="FAILED_PRECONDITION",
        refusal="A project has at most 16 keys. Delete one first.",
    ),
    Reason.NO_ACCOUNT: Meaning(
        status="FAILED_PRECONDITION",
        refusal="The server has no account at that marketplace, so it can neither list its offers nor rent. `state: "
        "rented` needs no account.",
    ),
    Reason.REQUEST_ID_REUSED: Meaning(
        status="ALREADY_EXISTS",
        refusal="This request_id belongs to a call with other parameters. `reservation_id` in the metadata names its "
        "reservation, `different` the fields that differ. Look there before you rent with a new id.",
    ),
    Reason.RESERVATION_OVER: Meaning(
        status="FAILED_PRECONDITION",
        refusal="The reservation is released or failed. It can't be extended.",
    ),
    Reason.BUDGET_EXCEEDED: Meaning(
        status="FAILED_PRECONDITION",
        refusal="It would exceed a spending limit. Nothing was rented. The message and the metadata say which limit, "
        "and what is spent, held and asked: [spending-limits.md](spending-limits.md). Over HTTP the status is 402.",
        outcome="The money for it could not be held any longer, because of a spending limit. It was released.",
    ),
    Reason.QUOTA_EXCEEDED: Meaning(
        status="FAILED_PRECONDITION",
        refusal="It would exceed a quota of the project. Nothing was rented. `quota` in the metadata names it: `gpus` "
        "at once, or `price_per_hour`.",
    ),
    Reason.CONTRACT_ENDED: Meaning(
        status="FAILED_PRECONDITION",
        refusal="The marketplace's contract of the machine has ended. It can't be started again.",
    ),
    Reason.WRONG_STATE: Meaning(
        status="FAILED_PRECONDITION",
        refusal="A machine that is not ready can't be stopped. A released machine can be neither stopped nor started. "
        "A machine that another call stopped while it was being started stays stopped.",
    ),
    Reason.NO_CAPACITY: Meaning(
        status="FAILED_PRECONDITION",
        refusal="A stopped machine can't be started, because somebody else uses its GPUs. It stays stopped.",
        outcome="Somebody else was faster. Another offer was tried.",
    ),
    Reason.ANSWER_TOO_LARGE: Meaning(status="FAILED_PRECONDITION", refusal="Ask for smaller pages."),
    Reason.FAILED_PRECONDITION: Meaning(
        status="FAILED_PRECONDITION",
        refusal="Something else must change first. The message says what.",
    ),
    Reason.PROVIDERS_UNREACHABLE: Meaning(
        status="UNAVAILABLE",
        refusal="No marketplace of the request could be reached. Nothing was rented.",
    ),
    Reason.CREATE_QUEUE: Meaning(
        status="UNAVAILABLE",
        refusal="Your turn to create would come after your deadline, because of other creates or because the "
        "marketplace wants fewer calls. Nothing was rented, and the request_id is free. Repeat the call after "
        "the time in RetryInfo (`queue_seconds` in the metadata), or with a longer deadline.",
    ),
    Reason.STORM_BREAKER: Meaning(
        status="UNAVAILABLE",
        refusal="The circuit breakers of all accounts that could be used are open: too many creates are unresolved or "
        "failed, or creates came too fast. Nothing was rented. Repeat the call after the time in RetryInfo.",
    ),
    Reason.DATABASE: Meaning(
        status="UNAVAILABLE",
        refusal="The server can't write its database. Nothing was changed. Repeat the call. On a full disk, or while "
        "the database files are not where they were opened, only calls that would cost more are refused. On a "
        "full disk this holds as long as the reserve for releases lasts.",
    ),
    Reason.SHUTTING_DOWN: Meaning(status="UNAVAILABLE", refusal="The server is stopping. Nothing was rented."),
    Reason.UNAVAILABLE: Meaning(
        status="UNAVAILABLE",
        refusal="Nothing happened. Repeat the call after the time in RetryInfo.",
    ),
    Reason.DEADLINE_EXCEEDED: Meaning(
        status="DEADLINE_EXCEEDED",
        refusal="Your time is over. If the deadline was too short for any create, nothing was rented: allow more "
        "time. Otherwise repeat the call with the same request_id.",
    ),
    Reason.INTERNAL: Meaning(status="INTERNAL", refusal="This is a bug. Report it with the trace id."),
    Reason.OFFER_GONE: Meaning(
        status="FAILED_PRECONDITION",
        outcome="Somebody else was faster. Another offer was tried.",
    ),
    Reason.PRICE_MOVED: Meaning(
        status="FAILED_PRECONDITION",
        outcome="The price was above the limit. The machine was not rented, or it was released.",
    ),
    Reason.RATE_LIMITED: Meaning(
        status="UNAVAILABLE",
        outcome="The marketplace refused the create because it wants fewer calls, but answered too late: the outcome "
        "already counted as unknown. Nothing was rented. Usually such a create waits instead (`pending`).",
    ),
    Reason.PROVIDER_REFUSED: Meaning(status="FAILED_PRECONDITION", outcome="The marketplace will never do this."),
    Reason.NOT_SUPPORTED: Meaning(status="FAILED_PRECONDITION", outcome="The marketplace will never do this."),
    Reason.HOST_REFUSED: Meaning(outcome="This host will not do this. Other hosts may."),
    Reason.PROVIDER_UNAVAILABLE: Meaning(
        status="UNAVAILABLE",
        outcome="The marketplace gave no usable answer, and nothing was rented.",
    ),
    Reason.PROVIDER_ERROR: Meaning(
        status="FAILED_PRECONDITION",
        outcome="The marketplace gave no usable answer, and nothing was rented.",
    ),
    Reason.OUTCOME_UNKNOWN: Meaning(status="UNAVAILABLE", outcome="A machine may be running. The server looks for it."),
    Reason.NOT_ATTEMPTED: Meaning(outcome="No create was sent, because its turn would have come after the deadline."),
    Reason.INTERRUPTED: Meaning(outcome="No create was sent, because the server stopped."),
    Reason.NEVER_CREATED: Meaning(
        outcome="The answer was lost, and the marketplace has shown that nothing was rented.",
    ),
    Reason.WRONG_GPU: Meaning(
        outcome="For two minutes the marketplace showed another model or fewer GPUs. The machine was released.",
    ),
    Reason.IMAGE_UNUSABLE: Meaning(
        outcome="The image, its registry or its entry point can't work on any host: see `status_message`. The machine "
        "was released, and no more machines are rented.",
        stop="The image is at fault. Correct the image, its registry login or the entry point.",
    ),
    Reason.HOST_BROKEN: Meaning(
        outcome="The host can't run the machine: see `status_message`. The machine was released and replaced.",
    ),
    Reason.NOT_READY: Meaning(
        outcome="The machine was listed as stopped or broken, or it did not run or answer in time: see "
        "`status_message`. It was released.",
    ),
    Reason.CALLER_GONE: Meaning(
        outcome="The caller was gone, and the call had neither request_id nor keep_late. The machine was released.",
    ),
    Reason.CAME_TOO_LATE: Meaning(
        outcome="The machine was found after its caller had left, and the call had neither request_id nor keep_late. "
        "It was released.",
    ),
    Reason.SURPLUS: Meaning(outcome="It was a second machine with the same label. It was destroyed."),
    Reason.ORPHAN: Meaning(outcome="It was our machine, but the database did not know it. It was destroyed."),
    Reason.REAPPEARED: Meaning(outcome="It was proven gone and appeared again. It was destroyed."),
    Reason.EXPIRED: Meaning(outcome="The lease reached its end."),
    Reason.IDLE: Meaning(
        outcome="Its GPUs were idle for `release_idle_after`. It was released: [idle-machines.md](idle-machines.md).",
    ),
    Reason.RELEASED: Meaning(outcome="You released the reservation."),
    Reason.DESTROYED: Meaning(outcome="You destroyed the machine."),
    Reason.COMMON_CAUSE: Meaning(
        stop="Machines failed in the same way on three hosts, and none became ready. Check the image, the account "
        "and the server's network.",
    ),
    Reason.REPLACEMENT_LIMIT: Meaning(
        stop="`GPUPROXY_REPLACEMENT_FACTOR` times the count was rented for this reservation.",
    ),
    Reason.UNREADABLE_ROWS: Meaning(status="FAILED_PRECONDITION"),
    Reason.ORPHANS_FOUND: Meaning(status="FAILED_PRECONDITION"),
    Reason.IN_WARM_POOL: Meaning(
        status="FAILED_PRECONDITION",
        refusal="The machine or volume belongs to a warm pool. Use the calls of the warm pool.",
    ),
    Reason.NO_SPEC: Meaning(
        status="FAILED_PRECONDITION",
        refusal="Nothing is stored for this machine_id, and the server has no default pool. Call ProvisionWarmPool.",
    ),
    Reason.POOL_STATE: Meaning(
        status="FAILED_PRECONDITION",
        refusal="The warm pool's state does not allow the call. The message names the state. HTTP 409.",
    ),
    Reason.POOL_EXISTS: Meaning(
        status="ALREADY_EXISTS",
        refusal="The machine_id has a warm pool with other parameters. Disable it first, or repeat the same call.",
    ),
    Reason.FAILOVER_FAILED: Meaning(
        status="INTERNAL",
        refusal="No machine could take over. The message says why, and the pool's status what is done next.",
    ),
    Reason.PROVISION_FAILED: Meaning(
        status="INTERNAL",
        refusal="The warm pool could not be made. The message says why, and the pool's status what is left.",
    ),
    Reason.DESTROYS_PRIMARY: Meaning(
        status="FAILED_PRECONDITION",
        refusal="In the mode `recreate` a failover destroys the primary. Set `allow_destroy` if you want that.",
    ),
    Reason.VOLUME_IN_USE: Meaning(
        status="FAILED_PRECONDITION",
        refusal="The volume is in use. It can be deleted once no pool uses it.",
        outcome="The marketplace does not give the volume to another machine while one has it.",
    ),
    Reason.POOL_CHANGED: Meaning(outcome="The warm pool does not need the machine any more. It was released."),
    Reason.BOOKING_ENDED: Meaning(
        outcome="The booking was over, and the marketplace ended the machine: see [billing.md](billing.md).",
    ),
    Reason.BOOKING_NOT_FOUND: Meaning(
        outcome="The answer to the create was lost, and no machine was found before the end of what it would have "
        "booked. The booking may have been paid: see [billing.md](billing.md#a-create-that-is-never-found).",
    ),
    Reason.PROBE_RUNNING: Meaning(
        status="FAILED_PRECONDITION",
        refusal="The account is being probed. Wait until that probe has ended, or release its reservation.",
    ),
}

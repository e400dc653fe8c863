"""Every error that crosses a module boundary: one class for each error that the *caller* handles differently.

    Exception
    ├─ IllegalTransition          a bug: an event that the state table does not allow
    ├─ Conflict                   the row was changed meanwhile: read it again
    │  └─ TurnTaken               the rotation was changed meanwhile: choose again
    ├─ ClaimLost                  another process has taken over the work: stop it
    ├─ Taken                      the database has a row with this unique value already
    ├─ StatementRefused           a bug: a statement or a row that the database does not accept
    ├─ ProviderError              an error of a marketplace (scope, advice, raw status and body)
    │  ├─ Refused                 nothing happened for certain
    │  │  ├─ OfferGone  NoCapacity  PriceMoved  RateLimited  InsufficientFunds
    │  │  └─ AuthFailed  InvalidRequest  ProviderUnavailable  NotSupported
    │  ├─ UnreadableRows          part of a listing can't be read
    │  ├─ OrphansFound            machines with our label that the database does not know
    │  └─ OutcomeUnknown          something may be running
    └─ Refusal                    an error that is returned to a client (reason, message, metadata)
       ├─ InvalidArgument  NotFound  Unauthenticated  PermissionDenied  NotBuilt
       ├─ FailedPrecondition      NOT_ENOUGH_GPUS, NOT_ALL_RESERVED, PROVIDER_FUNDS, ...
       ├─ AlreadyExists           REQUEST_ID_REUSED
       ├─ Unavailable             retry later
       │  └─ Busy  ReadOnly  DiskFull    why the database can't be used
       ├─ DeadlineExceeded
       └─ CreationFailed          INSTANCE_CREATION_FAILED

If in doubt, a provider's error is OutcomeUnknown. Only the text of a Refusal may reach a client.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gpuproxy.model.reasons import Reason


class IllegalTransition(Exception):
    """An event that the state table does not allow in the current state."""


class Conflict(Exception):
    """The row has changed since it was read."""


class TurnTaken(Conflict):
    """The rotation has changed since it was read: choose again."""


class TooSoon(Exception):
    """Another process has sent a call to the same endpoint of the account. The next turn begins in `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the next turn begins in {seconds:.3f} s")
        self.seconds = seconds


class ClaimLost(Exception):
    """The process has a claim no longer: it is over, or another process has it. The work must stop at once."""


class Taken(Exception):
    """A row with this value of a unique key exists already. `table` and `columns` name the key."""

    def __init__(self, table: str, columns: tuple[str, ...]) -> None:
        super().__init__(f"{table} has a row with this {', '.join(columns)} already")
        self.table = table
        self.columns = columns


class StatementRefused(Exception):
    """A bug: the database does not accept a statement, a value's type, or a row (a constraint other than a unique key).

    Repeating the unit of work can't succeed. The text is for the log.
    """


class Scope(StrEnum):
    """What an error is about."""

    OFFER = "offer"
    HOST = "host"
    REGION = "region"
    ACCOUNT = "account"
    PROVIDER = "provider"


class Advice(StrEnum):
    """What the engine should do next."""

    TRY_NEXT = "try_next"
    RETRY_LATER = "retry_later"
    STOP = "stop"


class ProviderError(Exception):
    """A call to a marketplace failed. `body` is redacted and truncated; it is for logs and operators only."""

    scope = Scope.PROVIDER
    advice = Advice.RETRY_LATER
    reason = Reason.PROVIDER_ERROR

    def __init__(
        self, message: str, *, scope: Scope | None = None, advice: Advice | None = None, status: int = 0, body: str = ""
    ) -> None:
        super().__init__(message)
        self.scope = scope or type(self).scope
        self.advice = advice or type(self).advice
        self.status = status
        self.body = body


class Refused(ProviderError):
    """The marketplace did nothing, for certain."""


class OfferGone(Refused):
    """The offer was rented by somebody else or withdrawn."""

    scope, advice, reason = Scope.OFFER, Advice.TRY_NEXT, Reason.OFFER_GONE


class NoCapacity(Refused):
    """The scope of the error (host, region, provider) has no capacity left."""

    scope, advice, reason = Scope.HOST, Advice.TRY_NEXT, Reason.NO_CAPACITY


class PriceMoved(Refused):
    """The offer now costs more than the agreed price."""

    scope, advice, reason = Scope.OFFER, Advice.TRY_NEXT, Reason.PRICE_MOVED


class RateLimited(Refused):
    """Too many calls. `retry_after` and the `interval` between calls are in seconds; None if the provider gave none."""

    scope, advice, reason = Scope.ACCOUNT, Advice.RETRY_LATER, Reason.RATE_LIMITED

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        interval: float | None = None,
        status: int = 0,
        body: str = "",
    ) -> None:
        super().__init__(message, status=status, body=body)
        self.retry_after = retry_after
        self.interval = interval


class InsufficientFunds(Refused):
    """The account has not enough credit."""

    scope, advice, reason = Scope.ACCOUNT, Advice.STOP, Reason.PROVIDER_FUNDS


class AuthFailed(Refused):
    """The marketplace does not accept the account's key."""

    scope, advice, reason = Scope.ACCOUNT, Advice.STOP, Reason.PROVIDER_CREDENTIALS


class InvalidRequest(Refused):
    """The provider does not accept this request, and a retry can't succeed."""

    scope, advice, reason = Scope.OFFER, Advice.STOP, Reason.PROVIDER_REFUSED


class ProviderUnavailable(Refused):
    """The marketplace did not answer, or its answer can't be read; for a read also: the answer isn't credible."""

    scope, advice, reason = Scope.PROVIDER, Advice.RETRY_LATER, Reason.PROVIDER_UNAVAILABLE


class VolumeInUse(Refused):
    """An instance has the volume: it can't be deleted, or another instance can't mount it."""

    scope, advice, reason = Scope.OFFER, Advice.RETRY_LATER, Reason.VOLUME_IN_USE


class UnreadableRows(ProviderError):
    """A listing has rows that can't be read: the account has machines that are not known."""

    scope, advice, reason = Scope.ACCOUNT, Advice.RETRY_LATER, Reason.UNREADABLE_ROWS


class OrphansFound(ProviderError):
    """Machines with our label exist that are not in the database."""

    scope, advice, reason = Scope.ACCOUNT, Advice.RETRY_LATER, Reason.ORPHANS_FOUND


class NotSupported(Refused):
    """The provider does not support this."""

    scope, advice, reason = Scope.PROVIDER, Advice.STOP, Reason.NOT_SUPPORTED


class OutcomeUnknown(ProviderError):
    """The call may have been executed, or may be executed later. A create is never repeated after this error."""

    scope, advice, reason = Scope.OFFER, Advice.STOP, Reason.OUTCOME_UNKNOWN


@dataclass(frozen=True, slots=True)
class Violation:
    """One invalid field of a request, with a description of the error."""

    field: str
    description: str


class Refusal(Exception):
    """An error for a client. `reason` is an upper-case constant; `metadata` has the variable parts of the message."""

    reason = Reason.INTERNAL

    def __init__(
        self, message: str, *, reason: Reason = Reason.NONE, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.metadata = dict(metadata or {})


class InvalidArgument(Refusal):
    """The request is invalid; repeating it can't succeed."""

    reason = Reason.INVALID_ARGUMENT

    def __init__(self, violations: Sequence[Violation], *, reason: Reason = Reason.NONE) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{more}", reason=reason, metadata={"field": first.field})
        self.violations = tuple(violations)


class NotFound(Refusal):
    """The resource does not exist in the caller's project."""

    reason = Reason.NOT_FOUND


class Unauthenticated(Refusal):
    """The credentials are missing or not valid."""

    reason = Reason.UNAUTHENTICATED


class PermissionDenied(Refusal):
    """The caller's role does not allow the call."""

    reason = Reason.PERMISSION_DENIED


class NotBuilt(Refusal):
    """The server does not implement the call yet."""

    reason = Reason.NOT_IMPLEMENTED


class FailedPrecondition(Refusal):
    """The current state does not allow the call; something else must change first."""

    reason = Reason.FAILED_PRECONDITION


class AlreadyExists(Refusal):
    """The request_id is already used for another demand."""

    reason = Reason.REQUEST_ID_REUSED


class Unavailable(Refusal):
    """Nothing happened. The caller should retry after `retry_after` seconds."""

    reason = Reason.UNAVAILABLE

    def __init__(
        self,
        message: str,
        *,
        reason: Reason = Reason.NONE,
        metadata: Mapping[str, str] | None = None,
        retry_after: float = 5.0,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after = retry_after


class Busy(Unavailable):
    """Another process has locked the database for too long."""

    reason = Reason.DATABASE


class ReadOnly(Unavailable):
    """The database can be read but not written."""

    reason = Reason.DATABASE


class DiskFull(Unavailable):
    """The database can't be written because its disk is full."""

    reason = Reason.DATABASE


class TooManyCalls(Unavailable):
    """A limit of concurrent calls is reached."""

    reason = Reason.TOO_MANY_CALLS


class DeadlineExceeded(Refusal):
    """The caller's deadline has passed."""

    reason = Reason.DEADLINE_EXCEEDED


class CreationFailed(Refusal):
    """Every create failed for certain. Nothing is rented."""

    reason = Reason.INSTANCE_CREATION_FAILED

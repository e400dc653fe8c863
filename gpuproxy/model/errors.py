"""Every error that crosses a module boundary: one class for each thing that the *caller* should do differently.

    Exception
    ├─ IllegalTransition          a bug: an event that the table does not allow
    ├─ Conflict                   somebody else changed the row first: re-read
    │  └─ TurnTaken               somebody else chose first: choose again
    ├─ ProviderError              what a marketplace answered (scope, advice, raw status and body)
    │  ├─ Refused                 surely nothing happened
    │  │  ├─ OfferGone  NoCapacity  PriceMoved  RateLimited  InsufficientFunds
    │  │  └─ AuthFailed  InvalidRequest  ProviderUnavailable  NotSupported
    │  ├─ UnreadableRows          part of a listing can't be read
    │  ├─ OrphansFound            machines of ours that the database does not know
    │  └─ OutcomeUnknown          something may be running
    └─ Refusal                    what a client of ours is told (reason, message, metadata)
       ├─ InvalidArgument  NotFound  Unauthenticated  PermissionDenied  NotBuilt
       ├─ FailedPrecondition      NOT_ENOUGH_GPUS, NOT_ALL_RESERVED, PROVIDER_FUNDS, ...
       ├─ AlreadyExists           REQUEST_ID_REUSED
       ├─ Unavailable             retry after a while
       ├─ DeadlineExceeded
       └─ CreationFailed          INSTANCE_CREATION_FAILED

When in doubt a provider error is OutcomeUnknown. The text of anything that is not a Refusal never reaches a client.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class IllegalTransition(Exception):
    """A state machine was given an event that its table does not allow."""


class Conflict(Exception):
    """The row changed since it was read."""


class TurnTaken(Conflict):
    """Somebody else chose in the meantime: choose again."""


class Scope(StrEnum):
    """What an error says something about."""

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
    """A marketplace did not do what was asked. `body` is redacted and cut; it is for logs and operators only."""

    scope = Scope.PROVIDER
    advice = Advice.RETRY_LATER
    reason = "PROVIDER_ERROR"

    def __init__(
        self, message: str, *, scope: Scope | None = None, advice: Advice | None = None, status: int = 0, body: str = ""
    ) -> None:
        super().__init__(message)
        self.scope = scope or type(self).scope
        self.advice = advice or type(self).advice
        self.status = status
        self.body = body


class Refused(ProviderError):
    """Surely nothing happened."""


class OfferGone(Refused):
    """Somebody else took it, or it was withdrawn."""

    scope, advice, reason = Scope.OFFER, Advice.TRY_NEXT, "OFFER_GONE"


class NoCapacity(Refused):
    """The place named by the scope has none left."""

    scope, advice, reason = Scope.HOST, Advice.TRY_NEXT, "NO_CAPACITY"


class PriceMoved(Refused):
    """It now costs more than was agreed."""

    scope, advice, reason = Scope.OFFER, Advice.TRY_NEXT, "PRICE_MOVED"


class RateLimited(Refused):
    """Too many calls. Seconds: `retry_after`, and the `interval` between calls; None when the provider does not say."""

    scope, advice, reason = Scope.ACCOUNT, Advice.RETRY_LATER, "RATE_LIMITED"

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
    """The account lacks credit."""

    scope, advice, reason = Scope.ACCOUNT, Advice.STOP, "PROVIDER_FUNDS"


class AuthFailed(Refused):
    """The account's key is not accepted."""

    scope, advice, reason = Scope.ACCOUNT, Advice.STOP, "PROVIDER_CREDENTIALS"


class InvalidRequest(Refused):
    """The provider will never accept this request."""

    scope, advice, reason = Scope.OFFER, Advice.STOP, "PROVIDER_REFUSED"


class ProviderUnavailable(Refused):
    """It did not answer, or not in its own language; for a read also: the answer can't be believed."""

    scope, advice, reason = Scope.PROVIDER, Advice.RETRY_LATER, "PROVIDER_UNAVAILABLE"


class UnreadableRows(ProviderError):
    """A listing has rows that can't be read: something unknown exists on the account."""

    scope, advice, reason = Scope.ACCOUNT, Advice.RETRY_LATER, "UNREADABLE_ROWS"


class OrphansFound(ProviderError):
    """Machines carry our label and are not in the database."""

    scope, advice, reason = Scope.ACCOUNT, Advice.RETRY_LATER, "ORPHANS_FOUND"


class NotSupported(Refused):
    """The provider can't do this at all."""

    scope, advice, reason = Scope.PROVIDER, Advice.STOP, "NOT_SUPPORTED"


class OutcomeUnknown(ProviderError):
    """The call may have been executed, now or later; a create is never repeated after it."""

    scope, advice, reason = Scope.OFFER, Advice.STOP, "OUTCOME_UNKNOWN"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request and what is wrong with it."""

    field: str
    description: str


class Refusal(Exception):
    """What a client is told. `reason` is an upper-case constant, `metadata` holds whatever varies in the message."""

    reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.metadata = dict(metadata or {})


class InvalidArgument(Refusal):
    """The request is wrong whatever the state of the world."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[Violation], *, reason: str = "") -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{more}", reason=reason, metadata={"field": first.field})
        self.violations = tuple(violations)


class NotFound(Refusal):
    """There is no such thing in the caller's project."""

    reason = "NOT_FOUND"


class Unauthenticated(Refusal):
    """No valid credentials."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(Refusal):
    """The caller's role does not allow it."""

    reason = "PERMISSION_DENIED"


class NotBuilt(Refusal):
    """Not offered by this server yet."""

    reason = "NOT_IMPLEMENTED"


class FailedPrecondition(Refusal):
    """Something else has to change first."""

    reason = "FAILED_PRECONDITION"


class AlreadyExists(Refusal):
    """The name is taken by something else."""

    reason = "REQUEST_ID_REUSED"


class Unavailable(Refusal):
    """Nothing happened; try again after `retry_after` seconds."""

    reason = "UNAVAILABLE"

    def __init__(
        self, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None, retry_after: float = 5.0
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after = retry_after


class TooManyCalls(Unavailable):
    """There is no place for one more call."""

    reason = "TOO_MANY_CALLS"


class DeadlineExceeded(Refusal):
    """The caller's time is over."""

    reason = "DEADLINE_EXCEEDED"


class CreationFailed(Refusal):
    """Every create is proven failed; nothing is rented."""

    reason = "INSTANCE_CREATION_FAILED"

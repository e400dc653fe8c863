"""The meaning of vast.ai's unexpected answers. The body decides; the status is only a hint.

The rule: an answer is Refused only if its body names a known reason, or if the application (an answer in JSON) refused
the request. Any other end of a call with effects is OutcomeUnknown. Errors contain a shortened body without secrets.
A 404 may mean "wrong key", and an error with a contract id is a machine that exists.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import msgspec

from gpuproxy.model.errors import (
    Advice,
    AuthFailed,
    InsufficientFunds,
    InvalidRequest,
    NoCapacity,
    OfferGone,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    Refused,
    Scope,
    VolumeInUse,
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpResponse, Receipt
from gpuproxy.providers.decode import Unreadable, fields_of, whole_number
from gpuproxy.providers.retry_after import number_of, seconds_of, within
from gpuproxy.providers.secrecy import cut
from gpuproxy.providers.vast.refusals import (
    says_credentials_are_dead,
    says_instance_is_gone,
    says_offer_is_gone,
    says_volume_is_gone,
    says_volume_is_taken,
)
from gpuproxy.providers.vast.wire import NAME, volume_id

E = TypeVar("E", bound=ProviderError)

CREATE_PENALTY = 12.0
"""Seconds to wait after a create that came too early."""
LONGEST_RETRY_AFTER = 300.0
LONGEST_INTERVAL = 60.0
LONGEST_LEARNT = 15.0
"""Documented intervals are at most 12 s. A learnt interval is kept until the server stops; a wait is not."""
LONGEST_QUOTA = 86_400.0
"""Only searches have a daily quota. Listings and destroys must never wait until midnight."""
_EXCERPT = 300
_PARSED = 65_536
_REFUSING = frozenset({400, 403, 404, 410, 422})
"""Statuses with which the application refuses a request before it does anything."""
_CONFLICT = 409
_THRESHOLD = re.compile(r"threshold\s*=\s*(\d+(?:\.\d+)?)")
_SECRET_FIELDS = re.compile(r'("(?:instance_api_key|api_key|jupyter_token|ssh_key|image_login)"\s*:\s*)"[^"]*"?')

_KNOWN: tuple[tuple[str, type[Refused], Scope | None, Advice | None], ...] = (
    ("no_such_ask", OfferGone, None, None),
    ("insufficient_credit", InsufficientFunds, None, None),
    ("missing_billing", InsufficientFunds, None, None),
    ("spend_rate_limit", InsufficientFunds, None, Advice.RETRY_LATER),
    ("no_ssh_key_for_vm", InvalidRequest, Scope.OFFER, Advice.TRY_NEXT),
    ("403/3586", InvalidRequest, Scope.HOST, Advice.TRY_NEXT),
    ("invalid_price", InvalidRequest, None, None),
    ("invalid_args", InvalidRequest, None, None),
    ("invalid_request", InvalidRequest, None, None),
    ("invalid_token", InvalidRequest, None, None),
)
"""The first entry whose word occurs in the answer's text applies. `no_such_ask` also comes with `invalid_args`."""
_TOO_OFTEN = ("rate_limit_exceeded", "too frequent", "search_quota_exceeded")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of an error object. Each may be missing or have any type."""

    success: object = None
    error: object = None
    msg: object = None
    message: object = None
    detail: object = None
    new_contract: object = None
    volume_id: object = None
    volume_name: object = None

    def text(self) -> str:
        """All its texts, in lower case."""
        parts = (self.error, self.msg, self.message, self.detail)
        return " ".join(part for part in parts if isinstance(part, str)).lower()

    def code(self) -> str:
        """The name of the error, in lower case."""
        return self.error.strip().lower() if isinstance(self.error, str) else ""

    def contract(self) -> InstanceId | None:
        """The id of the created machine, if there is one. It exists whatever else the answer says."""
        number = whole_number(self.new_contract)
        return None if number is None else InstanceId(str(number))

    def volumes(self) -> frozenset[InstanceId | None]:
        """The ids that name the created volume; None stands for one that can't be read."""
        named = frozenset({volume_id(self.volume_id)} if self.volume_id not in (None, "") else ())
        if self.volume_name in (None, ""):
            return named
        name = self.volume_name
        return named | {volume_id(name) if isinstance(name, str) and name.startswith("V.") else None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer, the time of its arrival, and the secrets that must not leave this module."""

    response: HttpResponse
    received_at: datetime
    secrets: Sequence[str] = field(default=(), repr=False)
    patience: float = LONGEST_RETRY_AFTER
    """The maximum seconds that the answer can delay the next call of this kind."""
    sent_at: float = 0.0
    """When the request was sent: a reading of Clock.monotonic()."""

    def answer(self) -> Answer:
        """The body as an error object. It is empty if the body is not a JSON object."""
        if len(self.response.body) > _PARSED:
            return Answer()
        try:
            loose, _ = fields_of(self.response.body)
        except Unreadable:
            return Answer()
        return Answer(**{name: loose[name] for name in Answer.__struct_fields__ if name in loose})

    def text(self) -> str:
        """The text of the answer, JSON or not, in lower case."""
        return self.answer().text() or self.response.body[:_EXCERPT].decode("utf-8", "replace").lower()

    def words(self) -> str:
        """The text of an error, in lower case: the messages of a JSON object, or the plain text of a refusal.

        It never includes HTML, which comes from a proxy, or texts of an instance or an offer in the body.
        """
        messages = self.answer().text()
        if messages or self.response.status not in _REFUSING:
            return messages
        text = self.text().lstrip()
        return "" if text.startswith(("<", "{", "[")) else text

    def excerpt(self) -> str:
        """The body for logs and operators: shortened and without secrets."""
        text = cut(self.response.body[:_PARSED].decode("utf-8", "replace"), self.secrets)
        return _SECRET_FIELDS.sub(r'\1"***"', text)[:_EXCERPT]

    def named_interval(self) -> float | None:
        """The interval between calls that a refusal names, in seconds."""
        named = _THRESHOLD.search(self.text())
        return within(float(named.group(1)), LONGEST_INTERVAL) if named else None

    def retry_after(self) -> float | None:
        """Seconds until the next call makes sense; None if the answer does not name them."""
        headers = self.response.headers
        if (reset := number_of(headers.get("x-ratelimit-reset"))) is not None:
            return within(reset - self.received_at.timestamp(), self.patience)
        return seconds_of(headers.get("retry-after"), self.received_at, longest=LONGEST_RETRY_AFTER)


def created(reply: Reply, *, mounts: bool = False) -> Receipt:
    """The receipt of a create. Raises a Refused if certainly nothing happened, otherwise OutcomeUnknown.

    `mounts`: the machine was to have a volume, so a refusal may be about that.
    """
    answer = reply.answer()
    contract = answer.contract()
    if contract is not None:
        return Receipt(instance_id=contract)
    refusal = _refusal(reply, answer, wait=CREATE_PENALTY)
    if mounts and isinstance(refusal, InvalidRequest) and says_volume_is_taken(answer.text()):
        raise _error(VolumeInUse, reply)
    if isinstance(refusal, InvalidRequest) and says_offer_is_gone(answer.text()):
        raise _error(OfferGone, reply)
    raise refusal or _error(OutcomeUnknown, reply)


def volume_created(reply: Reply, wait: float) -> Receipt:
    """The receipt of a volume: an answer with its id is one, even an error. Otherwise as `created`."""
    answer = reply.answer()
    named = answer.volumes()
    known = named - {None}
    if len(known) == 1:
        (made,) = known
        return Receipt(instance_id=InstanceId(str(made)))
    refusal = None if named or answer.contract() else _refusal(reply, answer, wait=wait)
    if isinstance(refusal, InvalidRequest) and says_offer_is_gone(answer.text()):
        raise _error(OfferGone, reply)
    raise refusal or _error(OutcomeUnknown, reply)


def volume_deleted(reply: Reply, wait: float, number: str) -> bool:
    """False if a deletion was accepted, True if vast.ai says that there is no such volume. Else a ProviderError.

    As for `destroyed`, "not found" is enough: only a listing proves that the volume is gone.
    """
    answer, status = reply.answer(), reply.response.status
    if status == 200 and answer.success is True:
        return False
    code, text = answer.code(), answer.text()
    dead = says_credentials_are_dead(status, code, text)
    if not dead and says_volume_is_gone(status, code, text, number):
        return True
    refusal = _refusal(reply, answer, wait=wait)
    refused = isinstance(refusal, InvalidRequest) or (refusal is None and status == _CONFLICT)
    if refused and says_volume_is_taken(f"{code} {text}"):
        raise _error(VolumeInUse, reply)
    raise refusal or _error(OutcomeUnknown, reply, advice=Advice.RETRY_LATER)


def destroyed(reply: Reply, wait: float, instance_id: InstanceId) -> bool:
    """False if a destroy was accepted, True if vast.ai says that the instance does not exist. Else a ProviderError.

    "Not found" is enough here, but no proof for `get`. A wrong True does no harm, because the engine also requires
    listings without the instance. A wrong error would repeat the destroy without end.
    A bare 404 is not enough: it may mean a bad key or a wrong path while the instance still runs.
    """
    answer = reply.answer()
    if reply.response.status == 200 and answer.success is True:
        return False
    if _gone(reply, answer, instance_id, loosely=True):
        return True
    raise _refusal(reply, answer, wait=wait) or _error(OutcomeUnknown, reply, advice=Advice.RETRY_LATER)


def switched(reply: Reply, wait: float) -> None:
    """Return if a start or a stop was accepted. Raises NoCapacity if a start has to wait for its GPUs."""
    answer = reply.answer()
    if reply.response.status == 200 and answer.success is True:
        return
    if answer.error == "resources_unavailable":
        raise _error(NoCapacity, reply)
    raise _refusal(reply, answer, wait=wait) or _error(OutcomeUnknown, reply, advice=Advice.RETRY_LATER)


def key_added(reply: Reply, wait: float) -> None:
    """Return if the machine has the SSH key now, or had it before."""
    answer = reply.answer()
    if (reply.response.status == 200 and answer.success is True) or "already" in answer.text():
        return
    raise _refusal(reply, answer, wait=wait) or _error(OutcomeUnknown, reply, advice=Advice.RETRY_LATER)


def unread(reply: Reply, *, wait: float) -> Refused:
    """The error for a read without a valid answer."""
    return _refusal(reply, reply.answer(), wait=wait) or _error(ProviderUnavailable, reply)


def no_such_instance(reply: Reply, instance_id: InstanceId) -> bool:
    """True if the answer says that the instance does not exist.

    A 404 alone does not say so. "Not found" alone does not either, because it may be about the path.
    """
    return _gone(reply, reply.answer(), instance_id, loosely=False)


def _gone(reply: Reply, answer: Answer, instance_id: InstanceId, *, loosely: bool) -> bool:
    status, code, text = reply.response.status, answer.code(), answer.text()
    return not says_credentials_are_dead(status, code, text) and says_instance_is_gone(
        status, code, text, instance_id, loosely=loosely
    )


def _refusal(reply: Reply, answer: Answer, *, wait: float) -> Refused | None:
    """The refusal, if the answer certainly is one; otherwise None. `wait`: the seconds for a 429 that names none."""
    status = reply.response.status
    if status >= 500 or answer.success is True:
        return None
    if status == 429 or any(word in answer.text() for word in _TOO_OFTEN):
        return _too_often(reply, wait)
    if says_credentials_are_dead(status, answer.code(), reply.words()):
        return _error(AuthFailed, reply)
    for word, kind, scope, advice in _KNOWN:
        if word in answer.text():
            return _error(kind, reply, scope=scope, advice=advice)
    if status == 402:
        return _error(InsufficientFunds, reply)
    if status in _REFUSING and answer.text():
        return _error(InvalidRequest, reply)
    return None


def _too_often(reply: Reply, wait: float) -> RateLimited:
    seconds, named = reply.retry_after(), reply.named_interval()
    if seconds is None:
        seconds = max(wait, named or 0.0)
    return RateLimited(
        f"{NAME} limits the rate of calls",
        retry_after=seconds,
        interval=None if named is None else min(named, LONGEST_LEARNT),
        status=reply.response.status,
        body=reply.excerpt(),
    )


def _error(kind: type[E], reply: Reply, *, scope: Scope | None = None, advice: Advice | None = None) -> E:
    excerpt, status = reply.excerpt(), reply.response.status
    return kind(f"{NAME} answered {status}: {excerpt}", scope=scope, advice=advice, status=status, body=excerpt)

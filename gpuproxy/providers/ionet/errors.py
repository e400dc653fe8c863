"""The meaning of io.net's unexpected answers. The body decides; the status is only a hint.

The rule: an answer is Refused only if io.net certainly executed nothing: a 4xx in its own words, which are JSON.
Everything else that follows a request with effects is OutcomeUnknown: a 408, a 5xx, a page or a plain text of a
gateway, a request that is still in progress, or a success that says it failed. io.net documents no texts for the
refusals of a deploy, so they are classified by their words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

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
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpResponse
from gpuproxy.providers.decode import Unreadable, fields_of
from gpuproxy.providers.ionet.wire import NAME
from gpuproxy.providers.retry_after import seconds_of
from gpuproxy.providers.secrecy import cut

E = TypeVar("E", bound=ProviderError)

LONGEST_RETRY_AFTER = 300.0
_EXCERPT = 300
_PARSED = 65_536
_ID_FIELDS = ("deployment_id", "id", "resource_id")
_IS_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_OF_THE_OFFER = frozenset({"hardware_id", "gpus_per_vm", "location_ids", "vms_qty"})
"""Fields of a deploy that differ from offer to offer: another one may be accepted."""

_NO_MONEY = re.compile(
    r"\b(?:insufficient|not enough|too low|low|out of) (?:[\w.]+ ){0,2}?(?:credits?|balance|funds?)\b"
    r"|\b(?:credits?|balance|funds?) (?:is |are )?(?:insufficient|too low|not enough|exhausted)\b"
    r"|\bpayment[ _]required\b"
)
_MONEY = re.compile(r"\bcredits?\b|\bbalance\b|\bfunds?\b|\btop[ -]?up\b")
_CAPACITY = re.compile(
    r"\bcapacity\b|\bsold[ _-]?out\b|\bunavailable\b|\b(?:not|no longer|none|nothing|no [\w ]{1,30}?) available\b"
    r"|\bout of stock\b|\b(?:insufficient|not enough) (?:gpu|hardware|resource|replica|suppl|vm|worker|device)"
)
_NO_HARDWARE = re.compile(
    r"\b(?:hardware|location|gpu|offer)\b.{0,60}?"
    r"\b(?:not found|does not exist|doesn't exist|no longer exists|unknown)\b"
    r"|\b(?:unknown|no such) (?:hardware|location|gpu|offer)\b"
)
_NAME_IS_TAKEN = re.compile(
    r"(?<![a-z])name\b.{0,60}?\b(?:taken|in use|already|exists|not unique|must be unique|duplicate)\b"
    r"|\bduplicate\b.{0,30}?(?<![a-z])name\b"
)
_KEY_IS_DEAD = re.compile(
    r"\b(?:api[ _-]?key|token|credentials?)\b.{0,40}?\b(?:invalid|expired|revoked|disabled|not valid|missing|unknown)\b"
    r"|\b(?:invalid|expired|revoked|disabled|missing|unknown) (?:api[ _-]?key|token|credentials?)\b"
    r"|\bunauthori[sz]ed\b|\bnot authenticated\b|\bnot allowed for this key\b|\binsufficient scope\b"
)
_MAY_STILL_HAPPEN = re.compile(
    r"\b(?:in progress|time[ds]?[ _-]?out|upstream|gateway|too early|client closed|being processed|is processing)\b"
)
"""Texts about a request that something may still execute."""
_UNCERTAIN = frozenset({408, 425, 499})
"""Statuses of a 4xx that say nothing about what was executed."""
_GONE = re.compile(
    r"\b(?:not found|no such|does not exist|doesn't exist|no longer exists"
    r"|already (?:been )?(?:destroyed|deleted|terminated))\b"
)
_NAMES_A_DEPLOYMENT = re.compile(r"\b(?:deployments?|clusters?|resources?|vms?|virtual machine|instance)\b")
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The body of an answer, as far as it is one of io.net's."""

    fields: dict[str, object]
    """Those of the JSON object, without the envelope; empty if the body is not a JSON object."""
    business: bool
    """True for the shape {"status": "failed", "error": ...}, which only io.net's own code writes."""
    text: str
    """Its messages in lower case, or the plain text of a body that is not JSON. Empty for HTML."""
    places: frozenset[str]
    """The names of the fields that a validation error is about."""

    @property
    def failed(self) -> bool:
        """True if the answer calls itself a failure, whatever its status."""
        return self.business or self.fields.get("status") == "failed"

    def created_id(self, *, accepted: bool) -> InstanceId | None:
        """The id of the created deployment. In a failure, only `deployment_id` is one: `id` may be its own."""
        for name in _ID_FIELDS if accepted and not self.failed else _ID_FIELDS[:1]:
            value = self.fields.get(name)
            if isinstance(value, str) and _IS_ID.fullmatch(value):
                return InstanceId(value)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer, the time of its arrival, and the secrets that must not leave this module."""

    response: HttpResponse
    received_at: datetime
    sent_at: float
    """When the request was sent: a reading of Clock.monotonic()."""
    secrets: Sequence[str] = field(default=(), repr=False)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status

    @property
    def accepted(self) -> bool:
        """True for a 2xx."""
        return 200 <= self.response.status < 300

    def said(self) -> Said:
        """The body, understood as far as possible."""
        body = self.response.body[:_PARSED]
        try:
            fields, _ = fields_of(body)
        except Unreadable:
            text = body[:_EXCERPT].decode("utf-8", "replace").strip().lower()
            plain = "" if text.startswith(("<", "{", "[", '"')) else text
            return Said(fields={}, business=False, text=plain, places=frozenset())
        texts = [value for name in ("error", "message", "msg") if isinstance(value := fields.get(name), str)]
        detail, places = _detail_of(fields.get("detail"))
        inner = fields.get("data")
        return Said(
            fields=fields if not isinstance(inner, dict) else {**fields, **inner},
            business=fields.get("status") == "failed" and isinstance(fields.get("error"), str),
            text=" ".join((*texts, *detail)).lower(),
            places=places,
        )

    def excerpt(self) -> str:
        """The body for logs and operators: shortened and without secrets."""
        return cut(self.response.body[:_PARSED].decode("utf-8", "replace"), self.secrets)[:_EXCERPT]


def refusal_of(reply: Reply, said: Said) -> Refused | None:
    """The refusal, if io.net certainly executed nothing; otherwise None."""
    status = reply.status
    if status == 429:
        return _too_often(reply)
    if status == 401:
        return error_of(AuthFailed, reply)
    if status in (400, 403) and _KEY_IS_DEAD.search(said.text) and not said.places:
        return error_of(AuthFailed, reply)
    if status == 402:
        return error_of(InsufficientFunds, reply)
    failed_success = reply.accepted and said.failed
    if (not 400 <= status < 500 and not failed_success) or status in _UNCERTAIN:
        return None
    if not said.fields or not said.text:  # a plain text may be a gateway's
        return None
    if _NAME_IS_TAKEN.search(said.text):  # the name is ours alone: a machine with it exists
        return None
    if _MAY_STILL_HAPPEN.search(said.text) and not said.places:
        return None
    return _by_words(reply, said) or (None if failed_success else _unclassified(reply, said))


def refusal_of_create(reply: Reply, said: Said) -> Refused | None:
    """As `refusal_of`. A success that failed, but has an id like a deployment's, does not exclude that there is one."""
    ids = [said.fields.get(name) for name in _ID_FIELDS]
    if reply.accepted and any(isinstance(each, str) and _UUID.fullmatch(each.lower()) for each in ids):
        return None
    return refusal_of(reply, said)


def unread(reply: Reply) -> Refused:
    """The error for a read without a valid answer."""
    refusal = refusal_of(reply, reply.said()) or error_of(ProviderUnavailable, reply)
    if reply.status == 403 and isinstance(refusal, InvalidRequest):  # a key that may not read
        return error_of(AuthFailed, reply)
    return refusal


def unknown(reply: Reply, *, again: bool) -> OutcomeUnknown:
    """The error for a request that may have been executed. `again`: repeating it does no harm."""
    return error_of(OutcomeUnknown, reply, advice=Advice.RETRY_LATER if again else None)


def no_such_deployment(reply: Reply, instance_id: InstanceId) -> bool:
    """True if io.net says in its own words that this deployment does not exist.

    A 404 alone does not say so: it may come from a gateway, or be about the path (`{"detail": "Not Found"}`).
    """
    if reply.status not in (404, 410):
        return False
    said = reply.said()
    if not said.fields or not _GONE.search(said.text):
        return False
    others = set(_UUID.findall(said.text)) - {instance_id.lower()}
    return not others and (said.business or bool(_NAMES_A_DEPLOYMENT.search(said.text)))


def error_of(kind: type[E], reply: Reply, *, scope: Scope | None = None, advice: Advice | None = None) -> E:
    """An error with the redacted answer in its text."""
    excerpt = reply.excerpt()
    return kind(
        f"{NAME} answered {reply.status}: {excerpt}", scope=scope, advice=advice, status=reply.status, body=excerpt
    )


def _by_words(reply: Reply, said: Said) -> Refused | None:
    if said.places:
        return None
    if _NO_MONEY.search(said.text):
        return error_of(InsufficientFunds, reply)
    if _CAPACITY.search(said.text):  # other numbers of cards of the same hardware may be free
        return error_of(NoCapacity, reply, scope=Scope.OFFER)
    if _MONEY.search(said.text):
        return error_of(InsufficientFunds, reply)
    if _NO_HARDWARE.search(said.text):
        return error_of(OfferGone, reply)
    return None


def _unclassified(reply: Reply, said: Said) -> InvalidRequest:
    """A refusal in unknown words. Another offer may be accepted, unless it names a field of the launch."""
    of_the_launch = said.places and not said.places & _OF_THE_OFFER
    if of_the_launch or said.text == "not found":
        return error_of(InvalidRequest, reply, scope=Scope.PROVIDER)
    return error_of(InvalidRequest, reply, scope=Scope.OFFER, advice=Advice.TRY_NEXT)


def _too_often(reply: Reply) -> RateLimited:
    header = reply.response.headers.get("retry-after")
    return RateLimited(
        f"{NAME} limits the rate of calls",
        retry_after=seconds_of(header, reply.received_at, longest=LONGEST_RETRY_AFTER),
        status=reply.status,
        body=reply.excerpt(),
    )


def _detail_of(detail: object) -> tuple[list[str], frozenset[str]]:
    """The texts of `detail`, which is a text or a list of validation errors, and the fields that these name."""
    if isinstance(detail, str):
        return [detail], frozenset()
    texts: list[str] = []
    places: set[str] = set()
    for each in detail if isinstance(detail, list) else ():
        if isinstance(each, dict):
            where = each.get("loc")
            names = [str(name) for name in where[1:]] if isinstance(where, list) else []
            places |= set(names[:1])
            texts.append(f"{'.'.join(names)}: {each.get('msg')}")
    return texts, frozenset(places)

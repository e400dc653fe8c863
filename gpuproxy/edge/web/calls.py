"""Calls of the dashboard: each goes through the dispatcher with the session's credentials, as an API call does.

So roles, limits, deadlines, errors and log lines are those of the API, and nothing is decided here. Some reads that the
contract does not have are dispatched in the same way: a reservation's events and project, why offers are left out and,
for admins, the operator's findings, the reconcile passes, the deliveries of webhooks and the users.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec
from google.protobuf.message import Message

from gpuproxy.edge.rpc.concurrency import ConcurrencyLimit
from gpuproxy.edge.rpc.dispatch import Call, Dispatcher
from gpuproxy.edge.rpc.rpcs import CONTRACT, POLL, Handler, Ready, Rpc, rpcs_of
from gpuproxy.health.checkup import Finding
from gpuproxy.loadbalancer.left_out import LeftOut
from gpuproxy.model.demands import Caller
from gpuproxy.model.reservations import TimelineEntry
from gpuproxy.model.webhooks import Delivery, Standing
from gpuproxy.reconcile.passes import Pass
from gpuproxy.store.users import UserRow
from gpuproxy.v1 import gpuproxy_pb2 as pb

MAX_CALLS = 256
"""Concurrent calls of all dashboards."""
Timeline = Callable[[Caller, str], Awaitable[Sequence[TimelineEntry]]]
"""Reads the events of a reservation that the caller may see, oldest first. Raises NotFound."""
ProjectRead = Callable[[Caller, str], Awaitable[str]]
"""Reads the project of a reservation that the caller may see. Raises NotFound."""
Findings = Callable[[], Awaitable[Sequence[Finding]]]
"""Reads the problems of the whole deployment."""
LeftOutRead = Callable[[pb.ReserveGPUsRequest, Caller], Awaitable[LeftOut]]
"""Says why offers are left out of a rental. Raises InvalidArgument, and Unavailable."""
_POLL = dict((POLL,))
_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What the dashboard reads in addition to the contract's calls."""

    timeline: Timeline
    project: ProjectRead
    left_out: LeftOutRead
    findings: Findings
    passes: Callable[[], Sequence["AccountPasses"]]
    webhooks: Callable[[], Awaitable["WebhookLog"]]
    users: Callable[[], Awaitable[Sequence[UserRow]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user as an admin sees it. It has nothing of the password."""

    email: str
    project: str
    role: str
    created_at: datetime
    disabled_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPasses:
    """What the reconciler of this process did lately for one account."""

    provider: str
    account: str
    here: bool
    """False: another server supervises the account, and has its passes."""
    last: Pass | None
    with_steps: Sequence[Pass]
    """The last passes that did something, newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookLog:
    """The targets of webhooks, and what was sent to them."""

    targets: Sequence[Standing]
    delivered: Mapping[str, int]
    """Events in the log that were taken, by target."""
    gave_up: Mapping[str, int]
    """Events in the log that were given up, by target."""
    deliveries: Sequence[Delivery]
    """The newest ones, newest first."""


class Calls:
    """The calls that pages make."""

    def __init__(self, dispatcher: Dispatcher, service: object, reads: Reads) -> None:
        self._dispatcher = dispatcher
        self._slots = ConcurrencyLimit(MAX_CALLS)
        self._rpcs = {rpc.name: rpc for rpc in rpcs_of(service)}
        for extra in _extra(reads):
            self._rpcs[extra.name] = extra

    async def identify(self, metadata: Mapping[str, str]) -> Caller:
        """Who has these credentials; raises Unauthenticated. What is cached is at most a second old."""
        return await self._dispatcher.identify(metadata)

    async def call(
        self,
        request: Message,
        answer: type[_M],
        metadata: Mapping[str, str],
        *,
        peer: str = "",
        poll: bool = False,
    ) -> _M:
        """The answer of the contract's call that takes this request. Raises the call's Refusal.

        `poll`: a page repeats the read by itself, so it is logged at debug.
        """
        name = _BY_REQUEST[request.DESCRIPTOR.name]
        found = await self._run(name, request, {**metadata, **_POLL} if poll else metadata, peer)
        if isinstance(found, Ready):
            return answer.FromString(found.wire)
        assert isinstance(found, answer)  # noqa: S101 - the contract's type of this call
        return found

    async def timeline(self, reservation_id: str, metadata: Mapping[str, str]) -> list[TimelineEntry]:
        """The events of a reservation, oldest first. Raises NotFound."""
        raw = await self._run("ReservationTimeline", reservation_id, {**metadata, **_POLL}, "")
        return msgspec.json.decode(raw, type=list[TimelineEntry])

    async def project(self, reservation_id: str, metadata: Mapping[str, str]) -> str:
        """The project of a reservation. Raises NotFound."""
        raw: bytes = await self._run("ReservationProject", reservation_id, {**metadata, **_POLL}, "")
        return raw.decode()

    async def findings(self, metadata: Mapping[str, str]) -> list[Finding]:
        """The findings of `gpuproxy doctor` that need no marketplace. Only for admins: they are of all projects."""
        raw = await self._run("DoctorFindings", None, metadata, "")
        return msgspec.json.decode(raw, type=list[Finding])

    async def left_out(self, request: pb.ReserveGPUsRequest, metadata: Mapping[str, str]) -> LeftOut:
        """Why a rental would leave out offers now. Raises InvalidArgument, and Unavailable."""
        return msgspec.json.decode(await self._run("LeftOutOffers", request, metadata, ""), type=LeftOut)

    async def passes(self, metadata: Mapping[str, str]) -> list[AccountPasses]:
        """The reconcile passes of this server, by account. Only for admins."""
        return msgspec.json.decode(await self._run("ReconcilePasses", None, metadata, ""), type=list[AccountPasses])

    async def webhooks(self, metadata: Mapping[str, str]) -> WebhookLog:
        """The webhooks and their newest deliveries, of all projects. Only for admins."""
        return msgspec.json.decode(await self._run("WebhookDeliveries", None, metadata, ""), type=WebhookLog)

    async def users(self, metadata: Mapping[str, str]) -> list[User]:
        """The users of all projects. Only for admins."""
        return msgspec.json.decode(await self._run("ListUsers", None, metadata, ""), type=list[User])

    async def _run(self, name: str, request: object, metadata: Mapping[str, str], peer: str) -> Any:
        async def receive() -> object:
            return request

        with self._slots.slot(""):
            call = Call(rpc=self._rpcs[name], metadata=metadata, seconds_left=None, receive=receive, peer=peer)
            reply = await self._dispatcher.run(call)
        if reply.refusal is not None:
            raise reply.refusal
        return reply.answer


def _extra(reads: Reads) -> tuple[Rpc, ...]:
    async def timeline(reservation_id: Any, caller: Caller) -> bytes:
        return msgspec.json.encode(await reads.timeline(caller, reservation_id))

    async def project(reservation_id: Any, caller: Caller) -> bytes:
        return (await reads.project(caller, reservation_id)).encode()

    async def left_out(request: Any, caller: Caller) -> bytes:
        return msgspec.json.encode(await reads.left_out(request, caller))

    async def findings(_request: Any, _caller: Caller) -> bytes:
        return msgspec.json.encode(await reads.findings())

    async def passes(_request: Any, _caller: Caller) -> bytes:
        return msgspec.json.encode(reads.passes())

    async def webhooks(_request: Any, _caller: Caller) -> bytes:
        return msgspec.json.encode(await reads.webhooks())

    async def users(_request: Any, _caller: Caller) -> bytes:
        return msgspec.json.encode([_shown(user) for user in await reads.users()])

    def rpc(name: str, handler: Handler, role: Literal["viewer", "admin"]) -> Rpc:
        return Rpc(name=name, decode=bytes, handler=handler, role=role)

    return (
        rpc("ReservationTimeline", timeline, "viewer"),
        rpc("ReservationProject", project, "viewer"),
        rpc("LeftOutOffers", left_out, "viewer"),
        rpc("DoctorFindings", findings, "admin"),
        rpc("ReconcilePasses", passes, "admin"),
        rpc("WebhookDeliveries", webhooks, "admin"),
        rpc("ListUsers", users, "admin"),
    )


def _shown(user: UserRow) -> User:
    return User(
        email=user.email,
        project=user.project,
        role=user.role,
        created_at=user.created_at,
        disabled_at=user.disabled_at,
    )


_BY_REQUEST = {method.input_type.name: method.name for method in CONTRACT.methods}

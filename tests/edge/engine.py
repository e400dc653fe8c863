"""An engine for tests of the edge: it records its calls and returns given answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuproxy.adapters.system import ScaledClock
from gpuproxy.catalog.refresh import Market
from gpuproxy.catalog.snapshot import View, built
from gpuproxy.edge.messages.instances import encode_offer, offer_json
from gpuproxy.edge.rpc.costs import CostCalls
from gpuproxy.edge.rpc.limits import LimitCalls
from gpuproxy.edge.rpc.providers import ProbeCalls, ProviderCalls
from gpuproxy.edge.rpc.service import Service
from gpuproxy.edge.rpc.session import Session
from gpuproxy.identity.key_rings import NewKey
from gpuproxy.identity.tokens import Token
from gpuproxy.instances.load import LoadReport, LoadRow
from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.demands import Caller, Demand
from gpuproxy.model.errors import NotFound, Refusal, Unauthenticated
from gpuproxy.model.leases import InstanceId, Lease, LeaseId, LeaseState, PortMapping, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, Offer, OfferFilter, OfferId, ProviderName
from gpuproxy.model.reservations import Decision, Pick, Reservation, ReservationState, ReservationView
from gpuproxy.model.transactions import Transaction
from gpuproxy.model.users import Role
from gpuproxy.reservations.requests import ReservationPage
from gpuproxy.store.keys import KeyRow
from gpuproxy.store.ssh_keys import SshKeyRow
from gpuproxy.store.users import UserRow
from gpuproxy.warmpool.requests import WarmPools
from tests.edge.face import key_row
from tests.flat_leases import changed, flat_lease

NOW = datetime(2026, 6, 12, 12, 0, tzinfo=UTC)
VAST = ProviderName("vast.ai")


def offer(number: int, *, price: int = 400_000, gpus: int = 1, vram: int = 24, **facts: object) -> Offer:
    made = Offer(
        id=OfferId(f"vast-{number}"),
        provider=VAST,
        host=HostKey(f"vast.ai/{number}"),
        machine_id=str(number),
        gpu_model="RTX 4090",
        num_gpus=gpus,
        vram_gb=vram,
        gpu_price=Micro(price),
        disk_price_month=Micro(0),
        max_disk_gb=500.0,
        location="Texas, US",
        reliability_ppm=990_000,
        verified=True,
        cuda_max=12.4,
        conflict_keys=tuple(f"{number}/{gpu}" for gpu in range(gpus)),
        extras={"sandbox": "true"},
    )
    return replace(made, **facts)  # type: ignore[arg-type]


def lease(number: int, state: LeaseState = LeaseState.STARTING, **facts: object) -> Lease:
    rented = state in (LeaseState.STARTING, LeaseState.ACTIVE, LeaseState.RELEASING, LeaseState.LOST)
    made = flat_lease(
        id=LeaseId(f"lease-{number}"),
        reservation_id=ReservationId("res-1"),
        project="p1",
        attempt=number,
        provider=VAST,
        account="main",
        label="gpx-label",
        offer_id=OfferId(f"vast-{number}"),
        host=HostKey(f"vast.ai/{number}"),
        conflict_keys=(),
        gpu_model="RTX 4090",
        num_gpus=1,
        vram_gb=24,
        location="Texas, US",
        price=Micro(400_000),
        disk_price=Micro(0),
        ceiling=Micro(500_000),
        state=state,
        version=1,
        created_at=NOW,
        instance_id=InstanceId(str(9000 + number)) if rented else None,
        started_at=NOW if rented else None,
        ssh_host="ssh4.example" if rented else "",
        ssh_port=12345 if rented else 0,
        ports=(PortMapping(container_port=8080, protocol="tcp", host="1.2.3.4", public_port=40001),) if rented else (),
        extras=(("sandbox", "true"),),
    )
    return changed(made, **facts)


def reservation(**facts: object) -> Reservation:
    made = Reservation(
        id=ReservationId("res-1"),
        project="p1",
        request_id="",
        fingerprint="f",
        count=2,
        least=1,
        keep=False,
        strategy="least_connections",
        labels=(("team", "vision"),),
        created_at=NOW,
        expires_at=None,
        version=1,
        replace_unready=True,
        ready_timeout_s=900,
        message="Reserved 2 of 2 GPUs at $0.80/h.",
        state=ReservationState.STARTING,
    )
    return replace(made, **facts)  # type: ignore[arg-type]


def view(*leases: Lease, **facts: object) -> ReservationView:
    costs = tuple(Micro(1_500_000) for _ in leases)
    return ReservationView(reservation=reservation(**facts), leases=leases, costs=costs)


PICK = Pick(offer_id=OfferId("vast-1"), host=HostKey("vast.ai/1"), num_gpus=2, price=Micro(800_000), why="cheapest")
DECISION = Decision(
    strategy="least_connections",
    considered=10,
    eligible=4,
    rejected=(("max_price", 6),),
    sizes=(2,),
    picks=(PICK,),
    top=(PICK,),
    cheapest_alternative=Micro(700_000),
)


@dataclass
class StubEngine:
    """Everything that the service calls, in one."""

    offers: Sequence[Offer] = ()
    mine: Sequence[LeaseView] = ()
    answer: ReservationView | Refusal = field(default_factory=lambda: view(lease(1), lease(2)))
    unreachable: tuple[tuple[ProviderName, float], ...] = ()
    market_refusal: Refusal | None = None
    demands: list[Demand] = field(default_factory=list)
    asked: list[tuple[object, ...]] = field(default_factory=list)
    scope: str = "project"
    _shown: View | None = None

    async def reserve(self, caller: Caller, demand: Demand) -> ReservationView:
        self.demands.append(demand)
        return self._answered()

    async def market(self, wanted: OfferFilter) -> Market:
        if self.market_refusal:
            raise self.market_refusal
        if self._shown is None:
            entries = [(each, {"grpc": encode_offer(each), "json": offer_json(each)}) for each in self.offers]
            self._shown = View(built(entries, ["grpc", "json"]), 0)
        return Market(NOW - timedelta(seconds=7), self.unreachable, False, self._shown, NOW)

    def silent(self, wanted: OfferFilter) -> tuple[tuple[ProviderName, float], ...]:
        return self.unreachable

    async def by_id(self, caller: Caller, reservation_id: str) -> ReservationView:
        self.asked.append(("reservation", reservation_id))
        return self._answered()

    async def meant_by(self, caller: Caller, request_id: str) -> dict[str, str]:
        return {}

    async def page(
        self, caller: Caller, *, state: str, labels: Mapping[str, str], page_size: int, page_token: str
    ) -> ReservationPage:
        self.asked.append(("reservations", state, dict(labels), page_size, page_token))
        return ReservationPage(views=(self._answered(),), next_page_token="next", total=5)

    async def release(self, caller: Caller, reservation_id: str) -> ReservationView:
        self.asked.append(("release", reservation_id))
        return self._answered()

    async def extend(self, caller: Caller, reservation_id: str, expires_at: datetime) -> ReservationView:
        self.asked.append(("extend", reservation_id, expires_at))
        return self._answered()

    async def by_contract(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        for mine in self.mine:
            if (mine.lease.provider, mine.lease.instance_id) == (provider, instance_id):
                return mine
        raise NotFound("no such instance")

    async def rented(self, caller: Caller) -> tuple[LeaseView, ...]:
        return tuple(self.mine)

    async def destroy(self, caller: Caller, provider: str, instance_id: str) -> Lease:
        self.asked.append(("destroy", provider, instance_id))
        return replace((await self.by_contract(caller, provider, instance_id)).lease, state=LeaseState.RELEASING)

    async def report(self, caller: Caller, instance_id: str) -> LoadReport:
        server = LoadRow(id="9001", provider=VAST, connections=3, gpus=4, last_used=NOW, picks=7)
        provider = LoadRow(id="vast.ai", provider=VAST, connections=9, gpus=9)
        return LoadReport(server=(server,), provider=(provider,), strategy="least_connections")

    async def transactions(self, caller: Caller, limit: int, offset: int) -> tuple[list[Transaction], int]:
        self.asked.append(("transactions", caller.project, limit, offset))
        return [], 7

    async def summary(self) -> str:
        return "ok"

    async def in_force(self, caller: Caller) -> tuple[str, str, tuple[str, ...]]:
        return "lowest_price", self.scope, ("least_connections", "lowest_price")

    async def choose(self, caller: Caller, name: str, scope: str) -> None:
        self.asked.append(("set_strategy", name, scope))

    async def start(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        return await self.by_contract(caller, provider, instance_id)

    async def stop(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        return await self.by_contract(caller, provider, instance_id)

    async def logs(self, caller: Caller, provider: str, instance_id: str, lines: int) -> Sequence[str]:
        self.asked.append(("logs", provider, instance_id, lines))
        return ["one", "two"]

    async def create(self, project: str, name: str, role: Role, user_id: str = "", *, by: Caller) -> NewKey:
        self.asked.append(("create", project, name, role))
        return NewKey("gpx_new_secret", replace(key_row("gpx_new_secret", role, project=project), name=name))

    async def list(self, project: str | None) -> tuple[KeyRow, ...]:
        self.asked.append(("list", project))
        return (key_row("gpx_one", "user"), replace(key_row("gpx_two", "viewer"), revoked_at=NOW))

    async def revoke(self, project: str | None, key_id: str, *, by: Caller) -> bool:
        self.asked.append(("revoke", project, key_id))
        return key_id == "id-user"

    def _answered(self) -> ReservationView:
        if isinstance(self.answer, Refusal):
            raise self.answer
        return self.answer


class StubSession:
    """One user, me@example.org with the password "right", and the SSH keys that were added."""

    def __init__(self) -> None:
        self.ssh_keys: dict[str, SshKeyRow] = {}

    async def login(self, email: str, password: str, network: str) -> tuple[UserRow, Token]:
        if (email, password) != ("me@example.org", "right"):
            raise Unauthenticated("no")
        user = UserRow(id="user-1", email=email, project="p1", role="user", password="", created_at=NOW)
        return user, Token(text="a.b.c", user_id=user.id, expires_at=NOW)

    async def add(self, project: str, name: str, line: str, fingerprint: str, *, by: Caller) -> SshKeyRow:
        facts = {"project": project, "name": name, "public_key": line, "fingerprint": fingerprint}
        row = SshKeyRow(id=f"ssh-{len(self.ssh_keys)}", created_at=NOW, **facts)
        return self.ssh_keys.setdefault(fingerprint, row)

    async def list(self, project: str | None) -> tuple[SshKeyRow, ...]:
        return tuple(self.ssh_keys.values())

    async def delete(self, project: str | None, key_id: str, *, by: Caller) -> bool:
        return any(row.id == key_id for row in self.ssh_keys.values())


def other_calls(engine: Any) -> tuple[object, ...]:
    """What implements the RPCs that are in classes of their own."""
    clock = ScaledClock(60.0, origin=NOW)
    return (ProviderCalls(engine), ProbeCalls(engine), CostCalls(engine, clock), LimitCalls(engine))


def service_over(
    engine: StubEngine,
    pools: WarmPools | None = None,
    *,
    pool_max_price: float | None = None,
    others: Iterable[object] = (),
) -> Service:
    session = StubSession()
    return Service(
        reserver=engine,  # type: ignore[arg-type]
        reservations=engine,  # type: ignore[arg-type]
        instances=engine,  # type: ignore[arg-type]
        load=engine,  # type: ignore[arg-type]
        spending=engine,  # type: ignore[arg-type]
        strategies=engine,  # type: ignore[arg-type]
        health=engine,  # type: ignore[arg-type]
        machines=engine,  # type: ignore[arg-type]
        catalog=engine,  # type: ignore[arg-type]
        session=Session(logins=session, keys=engine, ssh_keys=session),  # type: ignore[arg-type]
        fingerprint_key=b"of the tests",
        clock=ScaledClock(60.0, origin=NOW),
        default_max_price=10.0,
        marketplaces={"vast": "vast.ai", "ionet": "io.net"},
        pools=pools,
        pool_max_price=pool_max_price,
        others=others,
    )

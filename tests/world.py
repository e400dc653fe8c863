"""A whole deployment and its market on one virtual clock: no sockets, no threads, no waiting.

The real engine, store, adapter and sandbox; only the transport, the probe and the threads are in-process adapters of
their ports. `World.restart` is a kill -9: whatever was running is gone, the books and the market are not.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeVar

from gpuproxy.app import deployment
from gpuproxy.app.webhooks import Outgoing
from gpuproxy.app.wiring import Engine, build_engine
from gpuproxy.config.settings import Settings, settings_class
from gpuproxy.model.demands import Caller, Demand, LaunchSpec
from gpuproxy.model.leases import LIVE, TERMINAL, Lease
from gpuproxy.model.offers import OfferFilter, ProviderName
from gpuproxy.model.reservations import ReservationView
from gpuproxy.model.webhooks import Target
from gpuproxy.ports import Clock, Database, Descriptor, Http, HttpRequest, HttpResponse, Provider, ProviderSetup
from gpuproxy.providers import ionet, vast
from gpuproxy.runtime.fencing import FencedHttp
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.runtime.regions import Regions
from gpuproxy.runtime.shared_turns import SharedTurns
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.server.in_process import InProcessHttp, InProcessProbe
from gpuproxy.sandbox.world import build
from gpuproxy.store import leases, reservations
from tests import databases
from tests.mortal import MARKET, Life, MortalDatabase, MortalHttp
from tests.sums import Undone, check_sums
from tests.virtual_time import DAY_ONE, SkewedClock, VirtualClock, run_virtual

T = TypeVar("T")
VAST = ProviderName("vast.ai")
KEYS = ("sandbox-key", "sandbox-key-2")
MORE_KEYS = (*KEYS, "sandbox-key-3", "sandbox-key-4")
CALM = {"catalog_refresh_interval": 3600.0, "catalog_stale_after": 100_000.0}
"""A server that reads the offers once an hour. The reads of a day cost more than the rest of most stories."""
LIVELY = {"catalog_refresh_interval": 30.0, "catalog_stale_after": 300.0}
"""The defaults, for stories about the reading of offers."""
UNPACED = dict.fromkeys(
    ("search", "create", "list", "get", "destroy", "user", "manage", "charges", "ssh_key", "volumes"), 0.0
)


class SeededRandom:
    """The Random port, the same each time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, length: int) -> str:
        return "".join(self._random.choices("abcdefghijklmnopqrstuvwxyz234567", k=length))

    def secret(self, length: int) -> bytes:
        return self._random.randbytes(length)


class InlineWorkers:
    """The Workers port without threads."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        return work(*args)


@cache
def _plain_settings(accounts: tuple[str, ...]) -> Settings:
    """Made once: a class of settings takes longer than many a story."""
    return settings_class((ionet.DESCRIPTOR, vast.DESCRIPTOR))(vastai_api_key=",".join(accounts))


class World:
    """Made by `in_world`."""

    def __init__(
        self,
        clock: VirtualClock,
        *,
        paced: bool,
        accounts: int,
        seed: int,
        prepaid_accounts: int = 0,
        settings: Mapping[str, Any] | None = None,
        check_key: str = "",
        **options: Any,
    ) -> None:
        """`accounts` are vast.ai's and `prepaid_accounts` io.net's; both marketplaces know the same keys."""
        self.clock = clock
        self.paced = paced
        self.accounts = MORE_KEYS[:accounts]
        self.prepaid_accounts = KEYS[:prepaid_accounts]
        self.random = SeededRandom(seed)
        self.check_key = check_key
        limits = "real" if paced else "off"
        chosen = {"machines": 60, "seed": seed, **options}
        self.sandbox = build(
            SandboxOptions(rate_limits=limits, accounts=max(KEYS, self.accounts, key=len), **chosen), clock
        )
        self.http = InProcessHttp(self.sandbox)
        self.delay: Callable[[], float] = lambda: 0.0
        """Seconds that commits and requests take, each way."""
        self.overhear: list[Callable[[HttpRequest], None]] = []
        """Told every request as it reaches the market."""
        self.overhear_answers: list[Callable[[HttpRequest, HttpResponse], None]] = []
        """Told every answer as it leaves the market."""
        self.after_writes: list[Callable[[], None]] = []
        """Told every commit of the process, also the last one before it dies."""
        self.life = Life()
        self.db = databases.opened(clock.now)
        self.shared = False
        """Several processes use the database, so a process can't know that the others are dead."""
        self.settings = _plain_settings(self.accounts).model_copy(update=settings or {})
        self.removed: Sequence[Provider] = ()
        """Accounts whose keys were removed, from the next start on."""
        self.regions: Regions | None = None
        self.webhooks: tuple[Target, ...] = ()
        self.webhook_http: Http | None = None
        """What events are posted with, from the next start on."""
        self.engine: Engine
        self.books_clock: Clock = clock
        self.skew: float | None = None
        """By so many seconds the own clock of the next process is wrong. None: it has that of the database."""
        self.lateness = Lateness(clock)
        """Zero unless a story runs its `watch`."""
        self._elsewhere: set[asyncio.Task[Any]] = set()

    async def start(self, *, die_after: int | None = None) -> None:
        """A new life of the process, on whatever the books and the market hold; for so many points at most."""
        before = asyncio.all_tasks()
        self.life = Life(die_after)
        db = MortalDatabase(self.db, self.life, self.delay, self._written, exclusive=not self.shared)
        if self.skew is None:
            self.books_clock = await deployment.steady_clock(self.db, self.clock)
            self.db.use_clock(self.books_clock.now)
        else:
            self.books_clock = await deployment.steady_clock(db, SkewedClock(self.clock, self.skew))
        providers = [self._provider(vast.DESCRIPTOR, n, key, db) for n, key in enumerate(self.accounts, start=1)]
        providers += [
            self._provider(ionet.DESCRIPTOR, n, key, db) for n, key in enumerate(self.prepaid_accounts, start=1)
        ]
        self.engine = build_engine(
            self.settings,
            db=db,
            clock=self.books_clock,
            random=self.random,
            providers=providers,
            removed=self.removed,
            regions=self.regions,
            probe=InProcessProbe(self.sandbox, self.check_key),
            check_key=self.check_key,
            signer=await deployment.signer(self.db, self.random),
            lateness=self.lateness,
            outgoing=self._outgoing(),
        )
        self._elsewhere = before
        await self.engine.start()

    def _outgoing(self) -> Outgoing | None:
        if self.webhook_http is None:
            return None
        http = MortalHttp(self.webhook_http, self.life, self.delay, lambda _: None, lambda *_: None)
        return Outgoing(self.webhooks, http)

    async def restart(self) -> None:
        """Kill everything but the caller, and start again on the same books and the same market."""
        await self.kill()
        await self.start()

    async def kill(self) -> None:
        """The process is gone, and with it whatever it was doing; requests on their way still arrive."""
        self.life.end()
        mine = asyncio.all_tasks() - self._elsewhere - {asyncio.current_task()}
        for task in sorted(mine, key=_age):
            if task.get_name() != MARKET:
                task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _hear(self, request: HttpRequest) -> None:
        for listener in self.overhear:
            listener(request)

    def _hear_answer(self, request: HttpRequest, response: HttpResponse) -> None:
        for listener in self.overhear_answers:
            listener(request, response)

    def _written(self) -> None:
        for listener in self.after_writes:
            listener()

    def lose_books(self, *, keep_key: bool = True) -> None:
        """The database is gone; with its signing key, a new one can be the same deployment. Restart afterwards."""
        old, self.db = self.db, databases.opened(self.clock.now)
        if keep_key:
            for row in databases.rows(old, "SELECT key, value FROM meta WHERE key IN ('deployment_id', 'signing_key')"):
                databases.rows(self.db, "INSERT INTO meta (key, value) VALUES (?, ?)", row)

    def _provider(self, marketplace: Descriptor, number: int, key: str, db: Database | None = None) -> Any:
        setup = ProviderSetup(
            account=f"{marketplace.prefix}-{number}",
            key=key,
            base_url="http://sandbox",
            http=FencedHttp(MortalHttp(self.http, self.life, self.delay, self._hear, self._hear_answer)),
            shared=SharedTurns(db, self.books_clock, (marketplace.name, f"{marketplace.prefix}-{number}"))
            if self.shared and db is not None
            else None,
            clock=self.books_clock,
            workers=InlineWorkers(),
            intervals={} if self.paced else dict.fromkeys([call.name for call in marketplace.calls], 0.0) | UNPACED,
            prepaid_hours=self.settings.prepaid_hours,
        )
        return marketplace.connect(setup)

    async def reserve(self, count: int, *, seconds: float = 120, project: str = "p1", **wanted: Any) -> ReservationView:
        """One ReserveGPUs call with a deadline of so many seconds."""
        caller = Caller(project=project, deadline=self.clock.monotonic() + seconds)
        return await self.engine.reserver.reserve(caller, demand(count, **wanted))

    def arm(
        self,
        call: str,
        fault: str,
        times: int = 1,
        after: int = 0,
        *,
        provider: str = "vast.ai",
        account: str | None = None,
        **args: Any,
    ) -> None:
        """The next `times` such calls fail that way; `account`: only those with this key."""
        body = {"provider": provider, "call": call, "fault": fault, "times": times, "after": after, "args": args}
        body |= {"account": account} if account else {}
        self.control("POST", "faults", body)

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """The sandbox's control API."""
        import json

        request = HttpRequest(
            method=method,
            url=f"http://sandbox/sandbox/v1/{path}",
            headers={"content-type": "application/json"},
            body=None if body is None else json.dumps(body).encode(),
        )
        response = self.sandbox.receive(request).response
        assert response is not None
        assert response.status < 300, response.body
        return json.loads(response.body)

    @property
    def market(self) -> dict[str, Any]:
        """The sandbox's own view of everything."""
        state: dict[str, Any] = self.control("GET", "state")
        return state

    def alive(self) -> dict[str, dict[str, Any]]:
        """What exists at the market, by contract id."""
        return {str(i["id"]): i for i in self.market["instances"] if i["destroyed_at"] is None}

    def created(self) -> int:
        """How many instances ever existed at the market."""
        return len(self.market["instances"])

    def calls(self, name: str) -> int:
        """How many such requests reached the market."""
        return int(self.market["calls"].get("vast.ai", {}).get(name, 0))

    async def leases(self) -> tuple[Lease, ...]:
        """Every lease in the books."""
        rows = await self.db.read(
            lambda tx: [r["id"] for r in tx.fetch("SELECT id FROM leases ORDER BY created_at, id")]
        )
        return tuple([await self.db.read(lambda tx, i=i: leases.get(tx, i)) for i in rows])  # type: ignore[misc]

    async def live(self) -> list[Lease]:
        """The leases that are not over."""
        return [lease for lease in await self.leases() if lease.state in LIVE]

    async def books_agree(self) -> None:
        """What the market holds is exactly what the books call live; nothing is under two labels, or none."""
        live = {str(lease.instance_id): lease for lease in await self.live() if lease.instance_id is not None}
        alive = self.alive()
        assert set(live) == set(alive), f"books {sorted(live)} market {sorted(alive)}"
        for contract, lease in live.items():
            assert plain_label(alive[contract]["label"]) == lease.label
        open_meters = await self.db.read(
            lambda tx: {r["lease_id"] for r in tx.fetch("SELECT lease_id FROM meters WHERE closed_at IS NULL")}
        )
        assert open_meters == {lease.id for lease in live.values()}
        assert all(lease.ended_at is not None for lease in await self.leases() if lease.state in TERMINAL)
        with suppress(Undone):
            await self.db.write(check_sums)

    async def sleep(self, seconds: float) -> None:
        """Let the world turn."""
        await self.clock.sleep(seconds)

    async def view(self, reservation_id: str, project: str = "p1") -> ReservationView:
        return await self.engine.reservations.by_id(Caller(project=project), reservation_id)

    async def reservations(self) -> int:
        return await self.db.read(lambda tx: reservations.count(tx, None, "", {}))


def plain_label(label: str | None) -> str:
    """A label without the end that it may carry; "" for none."""
    return (label or "").partition(".")[0]


def demand(count: int, *, max_price: float = 5.0, min_vram: float = 0.0, **wanted: Any) -> Demand:
    """A demand for any GPUs at up to $5, unless `wanted` says otherwise."""
    spec = wanted.pop("spec", LaunchSpec())
    chosen = OfferFilter(
        max_price=max_price,
        min_vram=min_vram,
        ports=len(spec.ports),
        **{k: wanted.pop(k) for k in list(wanted) if k in OfferFilter.__dataclass_fields__},
    )
    if "lease" in wanted:
        wanted["lease_duration"] = timedelta(seconds=wanted.pop("lease"))
    made = Demand(count=count, filter=chosen, spec=spec, **wanted)
    return replace(made, fingerprint=str(replace(made, request_id="", wait=True)))


def _age(task: asyncio.Task[Any]) -> int:
    """Tasks are numbered as they are made; a set of them has an order only by address."""
    number = task.get_name().rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def in_world(
    story: Callable[[World], Awaitable[T]],
    *,
    paced: bool = False,
    accounts: int = 1,
    seed: int = 7,
    settings: Mapping[str, Any] | None = None,
    shared: bool = False,
    start: datetime = DAY_ONE,
    **options: Any,
) -> T:
    """Run a story in a fresh world; `settings` are the server's, beside those of CALM, `options` the sandbox's.

    `shared`: other servers may use the database too. `start`: the date at the beginning.
    """

    async def run(clock: VirtualClock) -> T:
        chosen = {**CALM, **(settings or {})}
        world = World(clock, paced=paced, accounts=accounts, seed=seed, settings=chosen, **options)
        world.shared = shared
        await world.start()
        try:
            return await story(world)
        finally:
            await world.engine.stop()

    return run_virtual(run, start=start)

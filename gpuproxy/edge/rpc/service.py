"""One method for each RPC, named as in the contract: translate the request, call the engine, translate the result.

The engine makes the decisions, and `dispatch` handles connections, authentication and deadlines. An RPC without a
method here answers UNIMPLEMENTED.
"""
# ruff: noqa: N802 - methods are named as in the contract

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gpuproxy.billing.spending import Spending
from gpuproxy.catalog.refresh import Catalog
from gpuproxy.edge.messages import demands, instances, load, reservations, transactions
from gpuproxy.edge.messages.demands import MAX_REQUEST_ID, Defaults, contract_id, create_demand, reserve_demand
from gpuproxy.edge.messages.pool_demands import PoolDefaults
from gpuproxy.edge.messages.violations import Violations
from gpuproxy.edge.rpc import listing
from gpuproxy.edge.rpc.pools import PoolCalls
from gpuproxy.edge.rpc.rpcs import CONTRACT, Ready
from gpuproxy.edge.rpc.session import Session
from gpuproxy.health.checkup import Health
from gpuproxy.instances.load import Load
from gpuproxy.instances.machines import Machines
from gpuproxy.instances.requests import Instances, LeaseView
from gpuproxy.loadbalancer.left_out import LeftOut
from gpuproxy.loadbalancer.setting import StrategySetting
from gpuproxy.model import ids
from gpuproxy.model.demands import MAX_GPUS, Caller, Demand
from gpuproxy.model.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Refusal,
    Unavailable,
    Violation,
)
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Clock
from gpuproxy.rental.joins import Reserver
from gpuproxy.reservations.requests import Reservations
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.warmpool.requests import WarmPools

_MAX_RESERVATIONS = 200
_USUAL_LINES, _MAX_LINES = 100, 1000
_TRANSACTIONS, _MAX_TRANSACTIONS = 50, 1000
_NamesInstance = (
    pb.GetGPUInstanceRequest
    | pb.StartGPUInstanceRequest
    | pb.StopGPUInstanceRequest
    | pb.GetInstanceLogsRequest
    | pb.DestroyGPUInstanceRequest
)
_NamesReservation = (
    pb.GetReservationRequest | pb.WatchReservationRequest | pb.ReleaseReservationRequest | pb.ExtendReservationRequest
)
_LOAD_KINDS = ("server", "provider", "all")


class Service:
    """The RPCs that this server implements."""

    def __init__(
        self,
        *,
        reserver: Reserver,
        reservations: Reservations,
        instances: Instances,
        load: Load,
        spending: Spending,
        strategies: StrategySetting,
        health: Health,
        machines: Machines,
        catalog: Catalog,
        session: Session,
        clock: Clock,
        fingerprint_key: bytes,
        default_max_price: float,
        lease_duration: timedelta | None = None,
        lease_grace: timedelta = timedelta(0),
        marketplaces: Mapping[str, str],
        pools: WarmPools | None = None,
        pool_max_price: float | None = None,
        others: Iterable[object] = (),
    ) -> None:
        """`default_max_price` is in USD per GPU-hour. `marketplaces` has names by the prefix of their offers' ids.

        Demands are hashed with `fingerprint_key`, which is stored outside the database. Without `pools`, the calls
        about warm pools are not implemented. `pool_max_price` is the price limit of a pool whose request names none;
        None: `default_max_price`. `others` implement further RPCs.
        """
        self._reserver = reserver
        self._reservations = reservations
        self._instances = instances
        self._load = load
        self._spending = spending
        self._strategies = strategies
        self._health = health
        self._machines = machines
        self._catalog = catalog
        self._clock = clock
        self._defaults = Defaults(
            max_price=default_max_price,
            lease_duration=lease_duration,
            lease_grace=lease_grace,
            marketplaces=marketplaces,
            fingerprint_key=fingerprint_key,
        )
        self._list_queries = listing.Queries(self._defaults)
        for calls in (session, *others):
            self._include(calls)
        if pools is not None:
            self._include(PoolCalls(pools, PoolDefaults(defaults=self._defaults, max_price=pool_max_price), clock))

    def _include(self, calls: object) -> None:
        """Take over the RPCs that another object implements."""
        for method in CONTRACT.methods:
            if hasattr(calls, method.name):
                setattr(self, method.name, getattr(calls, method.name))

    # ------------------------------------------------------------------------------------------ market and instances

    async def ListGPUInstances(self, request: pb.ListGPUInstancesRequest, caller: Caller) -> Ready:
        """Return one page of offers, of rented instances, or of both."""
        asked = self._list_queries.of(request)
        mine = await self._instances.rented(caller) if asked.state != "available" else ()
        if asked.state == "rented":
            return listing.page(asked, mine, None)
        try:
            market = await self._catalog.market(asked.filter)
        except (Unavailable, FailedPrecondition) as refusal:
            if asked.state != "all" or refusal.reason == Reason.NO_ACCOUNT:
                raise
            silent = [name for name, _ in self._catalog.silent(asked.filter)]
            return listing.page(asked, mine, None, unreachable=silent)
        return listing.page(asked, mine, market)

    async def GetGPUInstance(self, request: pb.GetGPUInstanceRequest, caller: Caller) -> pb.GetGPUInstanceResponse:
        """Return one rented instance."""
        instance = await self._named(request, caller)
        return pb.GetGPUInstanceResponse(instance=instances.of_view(instance))

    async def CreateGPUInstance(
        self, request: pb.CreateGPUInstanceRequest, caller: Caller
    ) -> pb.CreateGPUInstanceResponse:
        """Reserve one offer. A repeated request_id finds its reservation even if the offer no longer exists."""
        demand = create_demand(request, self._defaults)
        offer = await self._offer(demand)
        if offer is not None and offer.num_gpus > MAX_GPUS:
            text = f"has {offer.num_gpus} GPUs; one call rents at most {MAX_GPUS}"
            raise InvalidArgument([Violation("instance_id", text)])
        if offer is not None:
            demand = replace(demand, count=offer.num_gpus)
        try:
            view = await self._reserver.reserve(caller, demand)
        except FailedPrecondition as refusal:
            if offer is None and refusal.reason == Reason.NOT_ENOUGH_GPUS:
                raise _offer_gone(request.instance_id) from refusal
            raise
        return reservations.create_answer(view)

    async def DestroyGPUInstance(
        self, request: pb.DestroyGPUInstanceRequest, caller: Caller
    ) -> pb.DestroyGPUInstanceResponse:
        """Release one machine."""
        lease = (await self._named(request, caller)).lease
        lease = await self._instances.destroy(caller, lease.provider, request.instance_id.strip())
        return instances.destroy_answer(lease)

    async def StartGPUInstance(
        self, request: pb.StartGPUInstanceRequest, caller: Caller
    ) -> pb.StartGPUInstanceResponse:
        """Start a stopped machine."""
        lease = (await self._named(request, caller)).lease
        started = await self._machines.start(caller, lease.provider, request.instance_id.strip())
        return pb.StartGPUInstanceResponse(instance=instances.of_view(started))

    async def StopGPUInstance(self, request: pb.StopGPUInstanceRequest, caller: Caller) -> pb.StopGPUInstanceResponse:
        """Stop a machine: its GPUs are released, its disk is kept."""
        lease = (await self._named(request, caller)).lease
        stopped = await self._machines.stop(caller, lease.provider, request.instance_id.strip())
        return pb.StopGPUInstanceResponse(instance=instances.of_view(stopped))

    async def GetInstanceLogs(self, request: pb.GetInstanceLogsRequest, caller: Caller) -> pb.GetInstanceLogsResponse:
        """Return the last lines of a machine's log."""
        if not 0 <= request.tail <= _MAX_LINES:
            raise InvalidArgument([Violation("tail", f"must be 0 to {_MAX_LINES}")])
        lease = (await self._named(request, caller)).lease
        lines = await self._machines.logs(
            caller, lease.provider, request.instance_id.strip(), request.tail or _USUAL_LINES
        )
        return pb.GetInstanceLogsResponse(lines=lines)

    # -------------------------------------------------------------------------------------------------- reservations

    async def ReserveGPUs(self, request: pb.ReserveGPUsRequest, caller: Caller) -> pb.ReserveGPUsResponse:
        """Rent 1-16 GPUs."""
        demand = reserve_demand(request, self._defaults)
        return reservations.reserve_answer(await self._reserver.reserve(caller, demand))

    async def left_out(self, request: pb.ReserveGPUsRequest, caller: Caller) -> LeftOut:
        """Why ReserveGPUs would leave out offers now. For the dashboard: it is no call of the contract."""
        return await self._reserver.left_out(caller, reserve_demand(request, self._defaults))

    async def GetReservation(self, request: pb.GetReservationRequest, caller: Caller) -> pb.GetReservationResponse:
        """Return a reservation in its current state."""
        view = await self._reservations.by_id(caller, await self._reservation_id(request, caller))
        return pb.GetReservationResponse(reservation=reservations.reservation_message(view))

    async def WatchReservation(
        self, request: pb.WatchReservationRequest, caller: Caller
    ) -> AsyncGenerator[pb.WatchReservationResponse, None]:
        """Yield a reservation each time it changes."""
        reservation_id = await self._reservation_id(request, caller)
        async with aclosing(self._reservations.watch(caller, reservation_id, request.resume_token)) as changes:
            async for token, view in changes:
                reservation = reservations.reservation_message(view)
                yield pb.WatchReservationResponse(reservation=reservation, resume_token=token)

    async def ListReservations(
        self, request: pb.ListReservationsRequest, caller: Caller
    ) -> pb.ListReservationsResponse:
        """Return a page of reservations, newest first."""
        found = Violations()
        if request.page_size < 0:
            found.add("page_size", "must not be negative")
        labels = dict(demands.labels(request.labels, found))
        found.finish()
        page = await self._reservations.page(
            caller,
            state=request.state.strip().lower(),
            labels=labels,
            page_size=min(request.page_size, _MAX_RESERVATIONS),
            page_token=request.page_token,
        )
        return pb.ListReservationsResponse(
            reservations=[reservations.reservation_message(view) for view in page.views],
            next_page_token=page.next_page_token,
            total_count=page.total,
        )

    async def ReleaseReservation(
        self, request: pb.ReleaseReservationRequest, caller: Caller
    ) -> pb.ReleaseReservationResponse:
        """Release all machines of a reservation."""
        view = await self._reservations.release(caller, await self._reservation_id(request, caller))
        return pb.ReleaseReservationResponse(reservation=reservations.reservation_message(view))

    async def ExtendReservation(
        self, request: pb.ExtendReservationRequest, caller: Caller
    ) -> pb.ExtendReservationResponse:
        """Change the end of a reservation."""
        reservation_id = await self._reservation_id(request, caller)
        view = await self._reservations.extend(caller, reservation_id, demands.extend_until(request))
        return pb.ExtendReservationResponse(reservation=reservations.reservation_message(view))

    # ------------------------------------------------------------------------------------------------ load balancing

    async def GetLoadInfo(self, request: pb.GetLoadInfoRequest, caller: Caller) -> pb.GetLoadInfoResponse:
        """Return the load counters of servers and providers."""
        found = Violations()
        kind = found.word("type", request.type, _LOAD_KINDS, "all")
        instance_id = contract_id(request.instance_id, self._defaults, found) if request.instance_id else ""
        found.finish()
        return load.load_answer(await self._load.report(caller, instance_id), kind)

    async def GetLoadBalancerStrategy(
        self, _request: pb.GetLoadBalancerStrategyRequest, caller: Caller
    ) -> pb.GetLoadBalancerStrategyResponse:
        """Return the strategy in effect, its scope and the available strategies."""
        name, scope, available = await self._strategies.in_force(caller)
        return pb.GetLoadBalancerStrategyResponse(strategy=name, scope=scope, available=available)

    async def SetLoadBalancerStrategy(
        self, request: pb.SetLoadBalancerStrategyRequest, caller: Caller
    ) -> pb.SetLoadBalancerStrategyResponse:
        """Set the strategy of a scope."""
        name = request.strategy.strip().lower().replace("-", "_")
        await self._strategies.choose(caller, name, request.scope.strip().lower())
        return pb.SetLoadBalancerStrategyResponse(strategy=name, success=True)

    # --------------------------------------------------------------------------------------------------------- costs

    async def GetTransactions(self, request: pb.GetTransactionsRequest, caller: Caller) -> pb.GetTransactionsResponse:
        """Return a page of transactions, newest first."""
        found = Violations()
        for name, number in (("limit", request.limit), ("offset", request.offset)):
            if number < 0:
                found.add(name, "must not be negative")
        found.finish()
        limit = min(request.limit or _TRANSACTIONS, _MAX_TRANSACTIONS)
        spent, total = await self._spending.transactions(caller, limit, request.offset)
        return pb.GetTransactionsResponse(
            transactions=[transactions.transaction_message(each) for each in spent], total_count=total
        )

    # -------------------------------------------------------------------------------------------------------- health

    async def HealthCheck(self, _request: pb.HealthCheckRequest, _caller: Caller) -> pb.HealthCheckResponse:
        """Return the state of the server, the database and the marketplaces as texts for people."""
        details = {"server": "ok", "books": await self._health.summary()} | await self._markets()
        status = "ok" if set(details.values()) == {"ok"} else "degraded"
        return pb.HealthCheckResponse(status=status, timestamp=int(self._clock.now().timestamp()), details=details)

    # ------------------------------------------------------------------------------------------------------------ parts

    async def _reservation_id(self, request: _NamesReservation, caller: Caller) -> str:
        """The id of the reservation that the request names.

        Raises InvalidArgument. For a request_id, its metadata has `request_id_of`, as that of a NotFound has.
        """
        try:
            return demands.reservation_id(request.reservation_id, self._defaults)
        except InvalidArgument as wrong:
            text = request.reservation_id.strip()
            if text.isprintable() and len(text) <= MAX_REQUEST_ID:
                wrong.metadata |= await self._reservations.meant_by(caller, text)
            raise

    async def _named(self, request: _NamesInstance, caller: Caller) -> LeaseView:
        """The instance that the request names; without a provider, all providers are searched."""
        found = Violations()
        named = demands.provider("provider", request.provider, self._defaults, found)
        instance_id = contract_id(request.instance_id, self._defaults, found)
        found.finish()
        held = []
        for name in sorted(named) or self._defaults.known:
            with suppress(NotFound):
                held.append(await self._instances.by_contract(caller, name, instance_id))
        if not held:
            said = ids.hint(instance_id) or "ListGPUInstances with `state: rented` lists your instances."
            raise NotFound(f"You have no instance {instance_id}. {said}", metadata={"instance_id": instance_id})
        if len(held) > 1:
            names = ", ".join(view.lease.provider for view in held)
            raise InvalidArgument([Violation("provider", f"is required: {instance_id} exists at {names}")])
        return held[0]

    async def _offer(self, demand: Demand) -> Offer | None:
        """The offer that a demand names, at any price and end; None if it isn't on offer or no market can be read."""
        try:
            market = await self._catalog.market(demand.filter)
        except Unavailable:
            return None
        offers = market.select(replace(demand.filter.at_any_price(), disk_gb=0), _ANY_END).offers
        return offers[0] if offers else None

    async def _markets(self) -> dict[str, str]:
        """Marketplaces that don't answer, with the seconds since their last answer."""
        try:
            market = await self._catalog.market(_ANY_OFFER)
        except (FailedPrecondition, Unavailable) as refusal:
            return {"market": refusal.message}
        return {name: f"silent for {seconds:.0f} s" for name, seconds in market.unreachable}


_ANY_OFFER = OfferFilter()
_ANY_END = datetime(1970, 1, 1, tzinfo=UTC)


def _offer_gone(offer_id: str) -> Refusal:
    return FailedPrecondition(
        f"Offer {offer_id} is no longer available. Nothing was rented. List the offers again and choose another.",
        reason=Reason.OFFER_GONE,
        metadata={"offer_id": offer_id},
    )

"""The calls of clients about warm pools. A call writes what is wanted; the supervisor of the account does it.

So a call may arrive at any process, and a call that ends early changes nothing about what was wanted.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ProviderError,
    Refusal,
    Unavailable,
    Violation,
)
from gpuproxy.model.leases import LIVE, Lease
from gpuproxy.model.offers import AccountKey, HostKey, ProviderName
from gpuproxy.model.pool_calls import (
    CleanupResult,
    Enabled,
    EnableDemand,
    FailoverResult,
    HostQuery,
    PoolHost,
    PoolPlan,
    ProvisionDemand,
)
from gpuproxy.model.pools import NO_HOST, Pool, PoolEvent, PoolId, PoolSecrets, PoolSpec, PoolState, PoolView
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import record
from gpuproxy.ports import Clock, Database, Random, Tx
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.store import audit, leases, pools
from gpuproxy.warmpool import budgets
from gpuproxy.warmpool.asked_failovers import failed_over
from gpuproxy.warmpool.grounds import Grounds
from gpuproxy.warmpool.health_urls import foreign_port
from gpuproxy.warmpool.hosts import Hosts
from gpuproxy.warmpool.provisioning import (
    BUSY,
    Drawn,
    Ground,
    check_capabilities,
    draft,
    end_incident,
    found_or_made,
    kept_plan,
    machines_stay,
    merged,
    new_ceilings,
    no_spec,
    planned,
    require_same,
    sized,
    stands,
    taken_up,
    wrong_state,
)
from gpuproxy.warmpool.secrets import Sealer, SecretsUnavailable
from gpuproxy.warmpool.supervisor import Supervisor
from gpuproxy.warmpool.views import PoolViews, known
from gpuproxy.warmpool.watching import watch


class WarmPools:
    """The warm pools of a caller's project."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        random: Random,
        accounts: Accounts,
        hosts: Hosts,
        grounds: Grounds,
        sealer: Sealer,
        supervisor: Supervisor,
        default_spec: PoolSpec | None = None,
        hold_ahead: timedelta,
    ) -> None:
        """`default_spec` is what EnableWarmPool makes where nothing is stored; None: it is refused.

        `hold_ahead`: for how long money is held for a running machine.
        """
        self._db = db
        self._clock = clock
        self._random = random
        self._accounts = accounts
        self._hosts = hosts
        self._grounds = grounds
        self._sealer = sealer
        self._views = PoolViews(db, clock, supervisor)
        self._default_spec = default_spec
        self._hold_ahead = hold_ahead

    async def status(self, caller: Caller, machine_id: int) -> PoolView | None:
        """The pool; None for an unknown machine_id, which clients see as disabled."""

        def read(tx: Tx) -> PoolView | None:
            pool = pools.of_machine(tx, caller.project, machine_id)
            return None if pool is None else pools.view(tx, pool)

        found = await self._db.read(read)
        return None if found is None else self._views.told(found)

    async def listed(self, caller: Caller, after: int, limit: int) -> tuple[Sequence[PoolView], int]:
        """At most `limit` pools with a machine_id above `after`, by machine_id; and how many there are in all."""

        def read(tx: Tx) -> tuple[list[PoolView], int]:
            page = pools.listed(tx, caller.project, after, limit)
            return [pools.view(tx, each) for each in page], pools.count(tx, caller.project)

        found, total = await self._db.read(read)
        return [self._views.told(each) for each in found], total

    async def hosts(self, caller: Caller, query: HostQuery) -> Sequence[PoolHost]:
        """Hosts that match: those that can carry a pool first, then cheapest first."""
        self._account(query.provider, caller.project)
        return await self._hosts.listed(query)

    async def provision(self, caller: Caller, demand: ProvisionDemand) -> tuple[PoolView, PoolPlan]:
        """Make a pool on a host. Waits for `active` up to the caller's deadline, unless `wait` is False.

        Returns with another state than active when the time is over. Raises PROVISION_FAILED, POOL_EXISTS,
        POOL_STATE, NOT_ENOUGH_GPUS, NOT_SUPPORTED and BUDGET_EXCEEDED. A dry run has a view without machines.
        """
        account = self._account(demand.provider, caller.project)
        check_capabilities(self._accounts.provider(account).capabilities, demand.provider, demand.spec)
        host = HostKey(f"{demand.provider}/{demand.host_machine_id}")
        sealed = self._sealed(demand.secrets)
        before = await self.status(caller, demand.machine_id)
        stored = before.pool if before is not None else None
        ground = await self._ground(account, host, demand.spec)
        joins = stored is not None and stored.state in BUSY and not demand.dry_run
        if stored is not None and joins:
            require_same(stored, demand.spec, host, same_secrets=self._same_secrets(stored, demand.secrets))
        kept = stored if stored is not None and stored.host == host else None
        if kept is not None and not joins and not await self._db.read(partial(stands, pool=kept)):
            kept = None
        spec = sized(demand.spec, ground) if kept is None else replace(demand.spec, num_gpus=kept.spec.num_gpus)
        plan = planned(spec, "" if stored is None else stored.mode, ground, host)
        shown, stay = plan, kept is not None and before is not None and machines_stay(before)
        if before is not None and kept is not None and stay:
            same = self._same_secrets(kept, demand.secrets)
            shown = kept_plan(plan, before, demand.spec, same_secrets=same)
        now = draft(
            PoolId(""), caller.project, demand.machine_id, demand.provider, spec, nonce="", at=self._clock.now()
        )

        def check(tx: Tx, pool: Pool) -> None:
            if stay:
                new_ceilings(tx, replace(pool, spec=spec))
            budgets.check(tx, replace(pool, key_id=caller.key_id), plan, self._hold_ahead, kept=kept is not None)

        if demand.dry_run:
            await self._db.read(lambda tx: check(tx, stored or now))
            return self._views.told(before or PoolView(pool=replace(now, host=host))), shown
        drawn = Drawn.by(self._random)

        def write(tx: Tx) -> Pool:
            tx.before_spending()
            pool, new = found_or_made(
                tx, caller.project, demand.machine_id, provider=demand.provider, spec=spec, drawn=drawn
            )
            if not new and pool.state in BUSY:  # another call came first
                require_same(pool, demand.spec, host, same_secrets=self._same_secrets(pool, demand.secrets))
                return pools.save(tx, pool, replace(pool, wanted="supervised"))
            check(tx, pool)
            end_incident(tx, pool, "the pool was provisioned anew")
            pool = replace(pool, key_id=caller.key_id, sealed=sealed)
            _recorded(tx, caller, "pool_provisioned", pool, f"on {host}")
            return taken_up(tx, pool, PoolEvent.PROVISION, spec=spec, host=host, account=account[1], drawn=drawn)

        return await self._provisioned(caller, demand, await self._db.write(write), shown)

    async def enable(self, caller: Caller, demand: EnableDemand) -> Enabled:
        """Take up supervision, on the host of the pool or on one that is searched. Raises NO_SPEC, POOL_EXISTS."""
        drawn, default, provider = Drawn.by(self._random), self._default_spec, self._marketplace()
        before = await self.status(caller, demand.machine_id)

        def write(tx: Tx) -> Pool:
            if default is None and pools.of_machine(tx, caller.project, demand.machine_id) is None:
                raise no_spec(demand.machine_id)
            new_spec = merged(default or PoolSpec(max_price=0.0), demand.given)
            pool, _ = found_or_made(
                tx, caller.project, demand.machine_id, provider=provider, spec=new_spec, drawn=drawn
            )
            if pool.state is not PoolState.DISABLED:
                host = self._host(pool, demand) or pool.host
                same_secrets = demand.secrets is None or self._same_secrets(pool, demand.secrets)
                require_same(pool, merged(pool.spec, demand.given), host, same_secrets=same_secrets)
                return pools.save(tx, pool, replace(pool, wanted="supervised"))
            tx.before_spending()
            account, spec = self._account(pool.provider, pool.project), merged(pool.spec, demand.given)
            check_capabilities(self._accounts.provider(account).capabilities, pool.provider, spec)
            if wrong := foreign_port(spec.health, spec.ports):
                raise InvalidArgument([Violation("health", wrong)])
            host = self._host(pool, demand) or (pool.host if stands(tx, pool) else NO_HOST)
            sealed = pool.sealed if demand.secrets is None else self._sealed(demand.secrets)
            pool = replace(pool, key_id=caller.key_id, sealed=sealed)
            _recorded(tx, caller, "pool_enabled", pool)
            return taken_up(tx, pool, PoolEvent.ENABLE, spec=spec, host=host, account=account[1], drawn=drawn)

        pool = await self._db.write(write)
        view = await self._db.read(lambda tx: pools.view(tx, pools.get(tx, pool.id)))
        ground = None
        with suppress(Unavailable):  # the pool is enabled; its plan has no prices then
            ground = await self._ground((pool.provider, pool.account), pool.host, pool.spec) if pool.host else None
        plan = planned(pool.spec, pool.mode, ground, pool.host)
        if before is not None and machines_stay(before) and pool.primary == before.pool.primary:
            same_secrets = demand.secrets is None or self._same_secrets(before.pool, demand.secrets)
            plan = kept_plan(plan, before, pool.spec, same_secrets=same_secrets)
        return Enabled(view=self._views.told(view), plan=plan)

    async def disable(self, caller: Caller, machine_id: int) -> PoolView:
        """End supervision and give the standby back. During a failover it takes effect when that ends."""

        def write(tx: Tx) -> Pool:
            pool = known(tx, caller, machine_id)
            if pool.wanted == "gone":
                raise wrong_state(pool, "is being cleaned up")
            if pool.wanted != "disabled":
                _recorded(tx, caller, "pool_disabled", pool)
            return pools.save(tx, pool, replace(pool, wanted="disabled", asked=""))

        pool = await self._db.write(write)
        return await self._views.until(caller, pool.id, lambda view: view.pool.state is PoolState.DISABLED)

    async def test(self, caller: Caller, machine_id: int, *, allow_destroy: bool) -> FailoverResult:
        """Swap the roles as a failure would. Raises POOL_STATE, DESTROYS_PRIMARY, FAILOVER_FAILED."""

        def check(pool: Pool) -> None:
            if pool.state is not PoolState.ACTIVE:
                raise wrong_state(pool, f"is {pool.state}; a failover can be tested while it is active")
            if pool.mode == "recreate" and not allow_destroy:
                raise FailedPrecondition(
                    f"Warm pool {machine_id} works in the mode recreate: a failover destroys the primary and makes a "
                    "new machine with its volume. Set allow_destroy to test it.",
                    reason=Reason.DESTROYS_PRIMARY,
                )

        return await failed_over(
            self._db, self._views, caller, machine_id, check=check, asked=lambda pool: replace(pool, asked="test")
        )

    async def failover(self, caller: Caller, machine_id: int, *, allow_unfenced: bool) -> FailoverResult:
        """Fail over now. Raises POOL_STATE, FAILOVER_FAILED."""

        def check(pool: Pool) -> None:
            if pool.state not in (PoolState.ACTIVE, PoolState.DEGRADED) or pool.primary is None:
                raise wrong_state(pool, f"is {pool.state}; it can fail over while it is active or degraded")

        def asked(pool: Pool) -> Pool:
            return replace(pool, asked="manual", unfenced=allow_unfenced)

        return await failed_over(self._db, self._views, caller, machine_id, check=check, asked=asked)

    async def cleanup(self, caller: Caller, machine_id: int, *, keep_volume: bool) -> CleanupResult:
        """Release everything. Waits up to the caller's deadline until each part is proven gone."""

        def write(tx: Tx) -> Pool:
            pool = known(tx, caller, machine_id)
            if pool.state is PoolState.DISABLED and not pools.machines(tx, pool):
                return pools.save(tx, pool, replace(pool, wanted="disabled"))  # nothing is left
            if pool.wanted == "gone":
                return pools.save(tx, pool, replace(pool, keep_volume=pool.keep_volume and keep_volume))
            end_incident(tx, pool, "the pool was cleaned up")
            _recorded(tx, caller, "pool_cleaned_up", pool, "the volume is kept" if keep_volume else "")
            wanted = replace(pool, wanted="gone", keep_volume=keep_volume, asked="", progress="destroying")
            return pools.advance(tx, pool, PoolEvent.CLEANUP, "it was asked for", wanted)

        pool = await self._db.write(write)
        view = await self._views.until(caller, pool.id, lambda view: view.pool.wanted != "gone")
        left = view.machines if view.pool.wanted == "gone" else ()
        return CleanupResult(pending_ids=_ids(left), view=view)

    async def delete_retained_volume(self, caller: Caller, machine_id: int, volume_id: str) -> CleanupResult:
        """Delete a volume that the pool no longer uses, and its data. Waits like `cleanup`. Raises VOLUME_IN_USE."""

        def write(tx: Tx) -> Lease:
            pool = known(tx, caller, machine_id)
            found = next(
                (each for each in leases.of_reservation(tx, pool.ledger) if _names(each, volume_id)), None
            )  # fmt: skip
            if found is None:
                raise NotFound(f"Warm pool {machine_id} has no volume {volume_id!r}.")
            if found.id == pool.volume:
                raise FailedPrecondition(
                    f"Volume {volume_id} is in use by warm pool {machine_id}. Clean up the pool to delete it.",
                    reason=Reason.VOLUME_IN_USE,
                )
            if record.releasable(found):
                _recorded(tx, caller, "volume_deleted", pool, found.marketplace_id)
            record.release(tx, found, Reason.RELEASED)
            return found

        lease = await self._db.write(write)
        pool = await self._db.read(lambda tx: known(tx, caller, machine_id))
        view = await self._views.until(
            caller, pool.id, lambda view: not any(each.id == lease.id for each in view.machines), topic=lease
        )
        return CleanupResult(pending_ids=_ids(each for each in view.machines if each.id == lease.id), view=view)

    async def watch(
        self, caller: Caller, machine_id: int, resume_token: str
    ) -> AsyncGenerator[tuple[str, PoolView], None]:
        """The present state or, with a token, the changes after it; then every further change, with its token."""
        pool = await self._db.read(lambda tx: known(tx, caller, machine_id))
        async with aclosing(watch(self._db, pool.id, resume_token)) as changes:
            async for token, view in changes:
                yield token, self._views.told(view)

    # -- parts

    def _marketplace(self) -> ProviderName:
        """Where pools are made whose call names no marketplace: the first one that can carry them."""
        able = [each.name for each in self._accounts.usable() if "volumes" not in each.capabilities.missing]
        if not able:
            raise FailedPrecondition(
                "The server has no account at a marketplace with volumes.", reason=Reason.NO_ACCOUNT
            )
        return able[0]

    @staticmethod
    def _host(pool: Pool, demand: EnableDemand) -> HostKey:
        """The host that the call names; NO_HOST if it names none."""
        number = demand.host_machine_id
        return NO_HOST if number is None else HostKey(f"{pool.provider}/{number}")

    def _account(self, provider: ProviderName, project: str) -> AccountKey:
        """The account that a project's pools at a marketplace are rented with: the first one that it may use."""
        others = self._accounts.regions.of_others(project)
        for each in self._accounts.usable():
            if each.name == provider and (each.name, each.account) not in others:
                return each.name, each.account
        raise FailedPrecondition(f"The server has no account at {provider}.", reason=Reason.NO_ACCOUNT)

    async def _ground(self, account: AccountKey, host: HostKey, spec: PoolSpec) -> Ground:
        try:
            return await self._grounds.of(account, host, spec)
        except ProviderError as error:
            raise _unavailable(account[0], error) from error

    def _sealed(self, secrets: PoolSecrets) -> str:
        try:
            return self._sealer.seal(secrets)
        except SecretsUnavailable as error:
            raise FailedPrecondition(
                f"secret_env and registry_auth of a warm pool can't be stored: {error}. Set GPUPROXY_SECRETS_KEY_FILE."
            ) from error

    def _same_secrets(self, pool: Pool, secrets: PoolSecrets) -> bool:
        try:
            return self._sealer.unseal(pool.sealed) == secrets
        except SecretsUnavailable:
            return False

    async def _provisioned(
        self, caller: Caller, demand: ProvisionDemand, pool: Pool, plan: PoolPlan
    ) -> tuple[PoolView, PoolPlan]:
        if not demand.wait:
            return await self._views.of(pool.id), plan
        view = await self._views.until(caller, pool.id, lambda view: view.pool.state is not PoolState.PROVISIONING)
        if view.pool.state is PoolState.DEGRADED:
            raise Refusal(
                f"Warm pool {demand.machine_id} could not be provisioned: {view.pool.error} {view.next_action}",
                reason=Reason.PROVISION_FAILED,
                metadata={"degraded_reason": view.pool.degraded.value},
            )
        if view.pool.state is PoolState.DISABLED:
            raise wrong_state(view.pool, "was disabled or cleaned up while this call waited, so it is not provisioned")
        return view, plan


def _recorded(tx: Tx, caller: Caller, action: audit.Action, pool: Pool, detail: str = "") -> None:
    audit.record(tx, caller, action, str(pool.machine_id), detail, project=pool.project)


def _unavailable(provider: str, error: ProviderError) -> Unavailable:
    return Unavailable(f"{provider} did not answer: {error}. Nothing was changed.", reason=error.reason)


def _names(lease: Lease, volume_id: str) -> bool:
    wanted = volume_id.strip()
    return lease.kind == "volume" and bool(wanted) and wanted in (lease.instance_id, lease.marketplace_id)


def _ids(rows: Iterable[Lease]) -> tuple[str, ...]:
    return tuple(each.marketplace_id or each.label for each in rows if each.state in LIVE)

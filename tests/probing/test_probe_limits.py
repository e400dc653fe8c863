"""A probe that a spending limit or a quota would stop on its way is refused before it rents, and by its dry run too."""

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.limits import BudgetExceeded, cost
from gpuproxy.model.money import Micro
from gpuproxy.model.probes import WANTED_SECONDS, Probe
from gpuproxy.model.quotas import Quota
from gpuproxy.model.reasons import Reason
from gpuproxy.store import spend_limits
from tests.ionet_world import IoNetWorld, in_ionet_world
from tests.probing.test_probes import finished, followed, nothing_is_left, told
from tests.store.spending.test_admission import DOLLAR, limit, put, usage
from tests.world import World

ADMIN = Caller(project="p1", role="admin", key_id="key-1")
MUCH = Micro(50_000_000)
LIFE = round(WANTED_SECONDS * 1e6)


def needed(plan: Probe) -> int:
    """What the plan holds at most: each part until the end of the probe's reservation."""
    return sum(cost(part.price, LIFE) for part in plan.parts)


async def tried(world: World, *, dry_run: bool, provider: str = "vast.ai") -> Probe | FailedPrecondition:
    prober = world.engine.prober
    try:
        return await (prober.plan if dry_run else prober.start)(ADMIN, provider, "", MUCH)
    except FailedPrecondition as refusal:
        return refusal


async def rented_nothing(world: World) -> None:
    assert world.created() == 0
    assert await world.leases() == ()
    assert await world.reservations() == 0
    assert (await usage(world)).held == 0


@pytest.mark.parametrize(("scope", "subject"), [("project", "p1"), ("global", ""), ("key", "key-1")])
def test_a_probe_beyond_a_limit_is_refused_before_it_rents_and_its_dry_run_says_so(scope: str, subject: str) -> None:
    async def story(world: World) -> None:
        await world.sleep(60)
        plan = await tried(world, dry_run=True)
        assert isinstance(plan, Probe)
        await put(world, limit((needed(plan) - 1) / DOLLAR, scope=scope, subject=subject))  # type: ignore[arg-type]
        dry, real = [await tried(world, dry_run=each) for each in (True, False)]
        assert isinstance(dry, BudgetExceeded)
        assert isinstance(real, BudgetExceeded)
        assert dry.metadata["scope"] == scope
        assert (dry.message, dry.metadata) == (real.message, real.metadata)
        assert float(dry.metadata["asked"]) == needed(plan) / DOLLAR
        await rented_nothing(world)

    told(story)


def test_a_probe_within_a_limit_measures_everything_and_stays_within_it() -> None:
    async def story(world: World) -> None:
        await world.sleep(60)
        plan = await tried(world, dry_run=True)
        assert isinstance(plan, Probe)
        allowed = needed(plan)
        await put(world, limit(allowed / DOLLAR))
        assert isinstance(await tried(world, dry_run=True), Probe)
        assert isinstance(await tried(world, dry_run=False), Probe)
        most = 0

        async def watched() -> bool:
            nonlocal most
            now = await usage(world)
            most = max(most, now.spent + now.held)
            return finished(await world.engine.prober.last("vast.ai", ""))

        while not await watched():
            await world.sleep(10)
        done = await followed(world, finished)
        assert world.created() == 3, "no part was refused on the way"
        assert {each.name for each in done.measurements if each.outcome == "not_measured"} == {"container_key"}
        assert 0 < most <= allowed
        await nothing_is_left(world)

    told(story)


@pytest.mark.parametrize("policy", ["warn", "no_new"])
def test_a_limit_that_only_warns_refuses_no_probe(policy: str) -> None:
    async def story(world: World) -> None:
        await world.sleep(60)
        await put(world, limit(0.000001, policy=policy))  # type: ignore[arg-type]
        assert isinstance(await tried(world, dry_run=True), Probe) is (policy == "warn")

    told(story)


@pytest.mark.parametrize(("machines", "fits"), [(1, False), (2, True)])
def test_a_quota_counts_the_two_machines_that_a_probe_has_at_once(machines: int, fits: bool) -> None:
    async def story(world: World) -> None:
        await world.sleep(60)
        plan = await tried(world, dry_run=True)
        assert isinstance(plan, Probe)
        gpus = int(plan.parts[1].what.partition("x")[0])
        await world.db.write(lambda tx: spend_limits.use_settings(tx, (), (Quota(project="p1", gpus=machines * gpus),)))
        dry = await tried(world, dry_run=True)
        assert isinstance(dry, Probe) is fits
        if isinstance(dry, FailedPrecondition):
            assert dry.reason is Reason.QUOTA_EXCEEDED
            assert isinstance(await tried(world, dry_run=False), FailedPrecondition)
            await rented_nothing(world)
        else:
            assert isinstance(await tried(world, dry_run=False), Probe)
            done = await followed(world, finished)
            assert {each.name for each in done.measurements if each.outcome == "not_measured"} == {"container_key"}

    told(story)


@pytest.mark.parametrize(("part", "fits"), [(0.99, False), (1.0, True)])
def test_a_probe_that_is_paid_in_advance_needs_all_hours_that_it_books(part: float, fits: bool) -> None:
    async def story(world: IoNetWorld) -> None:
        await world.sleep(60)
        plan = await tried(world, dry_run=True, provider="io.net")
        assert isinstance(plan, Probe)
        (machine,) = plan.parts
        await put(world, limit(part * 3 * machine.price / DOLLAR, "1h"))
        dry = await tried(world, dry_run=True, provider="io.net")
        assert isinstance(dry, Probe) is fits
        if fits:
            assert isinstance(await tried(world, dry_run=False, provider="io.net"), Probe)
            await world.sleep(60)
            assert (await world.lease()).instance_id is not None, "it is booked"
        else:
            assert isinstance(dry, BudgetExceeded)
            assert isinstance(await tried(world, dry_run=False, provider="io.net"), BudgetExceeded)
            assert await world.leases() == ()

    in_ionet_world(story, hours=3)

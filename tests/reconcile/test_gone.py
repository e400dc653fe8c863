"""Marketplaces report in several ways that a machine is gone. One listing or an incomplete one proves nothing."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from gpuproxy.health.checkup import findings
from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseEvent, LeaseState
from gpuproxy.ports import InstanceStatus
from gpuproxy.reconcile.steps import Confirm
from tests.scenes import NOON, Account, events, lease_of, row
from tests.world import World, in_world

pytestmark = pytest.mark.long

OWNER = Caller(project="p1")
RELEASING = {
    "state": LeaseState.RELEASING, "seen_at": NOON, "destroy_tries": 1, "destroy_at": NOON + timedelta(days=1),
    "destroy_taken_at": NOON,
}  # fmt: skip


# -- the word of a destroy, and listings


def _listings(account: Account, *seconds: float, unreadable: tuple[str, ...] = ()) -> list[list[LeaseEvent]]:
    """The events of a lease after listings that do not show its machine."""
    told = []
    for at in seconds:
        steps = account.sees(at, unreadable=unreadable)
        told.append(events(steps))
        account.applies(steps)
    return told


def test_a_destroy_answered_with_not_found_and_three_listings_prove_that_a_machine_is_gone():
    account = Account(lease_of(**RELEASING, gone_said_at=NOON))
    assert _listings(account, 2, 4, 16, 18, 34) == [[], [], [], [], [LeaseEvent.GONE]]


def test_listings_alone_prove_nothing_when_the_destroy_was_only_accepted():
    account = Account(lease_of(**RELEASING))
    assert _listings(account, *range(2, 200, 20)) == [[]] * 10


def test_listings_that_began_before_the_answer_of_the_destroy_do_not_count():
    account = Account(lease_of(**RELEASING, gone_said_at=NOON + timedelta(seconds=40)))
    assert _listings(account, 2, 20, 38, 41, 58) == [[]] * 5


def test_listings_with_unreadable_rows_do_not_count():
    account = Account(lease_of(**RELEASING, gone_said_at=NOON))
    assert _listings(account, *range(2, 200, 20), unreadable=("row 1: no id",)) == [[]] * 10


def test_a_machine_that_is_listed_again_is_billed_again_and_restarts_the_count():
    account = Account(lease_of(**RELEASING, gone_said_at=NOON, billed="nothing"))
    _listings(account, 2, 20)
    account.applies(account.sees(25, row(InstanceStatus.RUNNING)))
    pending = account.lease.pending
    assert (pending.gone_said_at, pending.absent_checks, account.lease.observed.billed) == (None, 0, "all")
    assert _listings(account, 40, 60, 80) == [[]] * 3


@pytest.mark.parametrize("unreadable", [(), ("row 1: no id",)])
def test_a_read_confirms_what_a_listing_does_not_show_and_two_where_the_listing_is_not_whole(
    unreadable: tuple[str, ...],
):
    account = Account(lease_of(**RELEASING))
    [confirm] = [step for step in account.sees(2, unreadable=unreadable) if isinstance(step, Confirm)]
    assert confirm.alone is bool(unreadable)


# -- in a world


async def _released(world: World) -> str:
    made = await world.reserve(1, request_id="a")
    await world.sleep(90)
    await world.engine.reservations.release(OWNER, made.reservation.id)
    return made.reservation.id


@pytest.mark.parametrize(
    "form", ["null", "empty_list", "empty_object", "status_410", "plain_404", "no_such_instance", "html_404"]
)
def test_a_release_ends_however_the_marketplace_says_that_it_is_gone(form: str):
    async def story(world: World) -> None:
        world.arm("get", "gone_as", times=0, form=form)
        reservation = await _released(world)
        await world.sleep(120)
        assert (await world.view(reservation)).leases[0].state is LeaseState.RELEASED
        assert world.calls("get") < 12
        await world.books_agree()

    in_world(story)


def test_a_release_without_proof_costs_nothing_more_and_is_repeated_with_growing_waits():
    async def story(world: World) -> None:
        world.arm("get", "status_500_before", times=0)
        world.arm("list", "status_500_before", times=0)
        reservation = await _released(world)
        await world.sleep(30)
        before = (await world.view(reservation)).costs[0]
        await world.sleep(3600)
        view = await world.view(reservation)
        assert view.leases[0].state is LeaseState.RELEASING
        assert view.costs[0] == before
        assert world.calls("destroy") < 40
        found = await world.db.read(lambda tx: findings(tx, {("vast.ai", "vast-1")}))
        assert any("nothing is billed" in each.text for each in found if each.kind == "stuck_release"), found

    in_world(story)


def test_a_rate_limit_of_destroys_does_not_make_later_ones_slower():
    async def story(world: World) -> None:
        tries = []
        for n in range(6):
            made = await world.reserve(1, request_id=f"a{n}")
            await world.sleep(90)
            world.arm("destroy", "rate_limited", retry_after=5)
            began = world.clock.monotonic()
            await world.engine.reservations.release(OWNER, made.reservation.id)
            while world.alive():
                await world.sleep(1)
            tries.append(world.clock.monotonic() - began)
            await world.sleep(3600)
        assert max(tries) <= 8, tries

    in_world(story)


def test_a_destroy_that_is_limited_again_and_again_is_repeated_with_growing_waits():
    async def story(world: World) -> None:
        world.arm("destroy", "rate_limited", times=0, retry_after=1)
        await _released(world)
        await world.sleep(600)
        assert 3 <= world.calls("destroy") < 15

    in_world(story)


def test_reads_without_a_clear_answer_are_repeated_with_growing_waits():
    async def story(world: World) -> None:
        world.arm("destroy", "gone_as", times=0, form="plain_404")
        world.arm("get", "gone_as", times=0, form="html_404")
        await _released(world)
        await world.sleep(1200)
        assert world.calls("get") < 20
        assert world.calls("list") < 250

    in_world(story)


@pytest.mark.parametrize("kind", ["undecodable", "surrogate", "nan", "wrong_types", "null_fields"])
@pytest.mark.parametrize("whose", ["stranger", "mine"])
def test_an_odd_row_hides_no_machine_and_delays_no_release(kind: str, whose: str):
    async def story(world: World) -> None:
        made = await world.reserve(2, request_id="a")
        await world.sleep(90)
        assert {lease.state for lease in (await world.view(made.reservation.id)).leases} == {LeaseState.ACTIVE}
        world.arm("list", "odd_row", times=0, kind=kind, whose=whose)
        await world.sleep(60)
        assert len((await world.view(made.reservation.id)).kept) == 2
        await world.engine.reservations.release(OWNER, made.reservation.id)
        await world.sleep(200)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


@pytest.mark.parametrize("kind", ["no_id", "null_row"])
def test_an_unreadable_row_prevents_proofs_of_absence_and_doctor_reports_it(kind: str):
    async def story(world: World) -> None:
        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a")
        world.arm("list", "odd_row", times=0, kind=kind)
        await world.sleep(2000)
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.UNKNOWN
        found = await world.db.read(lambda tx: findings(tx, {("vast.ai", "vast-1")}))
        assert "unreadable" in [each.kind for each in found]
        world.control("DELETE", "faults")
        await world.sleep(900)
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.FAILED
        found = await world.db.read(lambda tx: findings(tx, {("vast.ai", "vast-1")}))
        assert found == ()

    in_world(story)


@pytest.mark.parametrize("fault", ["endless_list", "slow_pages"])
def test_endless_or_slow_listings_delay_nothing_else(fault: str):
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a", lease=300)
        await world.sleep(60)
        world.arm("list", fault, times=0, seconds=30)
        sent = world.calls("destroy")
        await world.engine.reservations.release(OWNER, made.reservation.id)
        await world.sleep(1)
        assert world.calls("destroy") == sent + 1
        await world.sleep(10)
        assert world.alive() == {}

    in_world(story)


# -- machines that the books do not know


def test_machines_unknown_to_a_restored_copy_are_warned_about_and_kept_for_ten_minutes():
    async def story(world: World) -> None:
        await world.reserve(1, request_id="a")
        await world.sleep(3600)
        with capture_logs() as logs:
            await world.kill()
            world.lose_books()
            await world.start()
            await world.sleep(590)
        assert len(world.alive()) == 1
        [warning] = [each for each in logs if each["event"] == "orphans_found"]
        assert warning["log_level"] == "warning"
        assert warning["instances"] == list(world.alive())
        assert warning["minutes_left"] == 10
        await world.sleep(120)
        assert world.alive() == {}

    in_world(story)


# -- our own network


def test_when_nothing_answers_our_own_network_is_suspected_before_the_machines():
    async def story(world: World) -> None:
        with capture_logs() as logs:
            for machine in world.sandbox.market.machines:
                world.control("POST", f"machines/{machine}/break", {"how": "no_ssh"})
            call = asyncio.ensure_future(
                world.reserve(2, wait_for="ready", ready_timeout=timedelta(seconds=60), seconds=3600, request_id="a",
                              strategy="round_robin")
            )  # fmt: skip
            await world.sleep(60 + 30 + 300)
            assert len(world.alive()) == 2
            assert "own_network_suspected" in [each["event"] for each in logs if each["log_level"] == "warning"]
            await world.sleep(600)
            assert world.created() > 2
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    in_world(story)


def test_a_machine_that_answers_elsewhere_clears_our_own_network():
    async def story(world: World) -> None:
        await world.reserve(1, wait_for="ready", seconds=600, request_id="good")
        good = {int(one["machine_id"]) for one in world.alive().values()}
        for machine in set(world.sandbox.market.machines) - good:
            world.control("POST", f"machines/{machine}/break", {"how": "no_ssh"})
        made = await world.reserve(2, wait_for="created", ready_timeout=timedelta(seconds=120), request_id="a")
        await world.sleep(250)
        leases = (await world.view(made.reservation.id)).leases
        bad = [lease for lease in leases if int(lease.offered.host.rpartition("/")[2]) not in good]
        assert bad
        assert {lease.reason for lease in bad} == {"NOT_READY"}

    in_world(story)


def test_listings_with_another_machine_of_ours_prove_an_accepted_destroy_and_no_other():
    for taken, gone in ((NOON, [LeaseEvent.GONE]), (None, [])):
        account = Account(lease_of(**{**RELEASING, "destroy_taken_at": taken}))
        canary = lease_of(2, state=LeaseState.ACTIVE, seen_at=NOON, ready_at=NOON)
        told: list[LeaseEvent] = []
        for at in (2, 20, 40):
            steps = account.sees(at, row(id="2", label="label-2"), leases=[account.lease, canary])
            own = [step for step in steps if step.lease.id == account.lease.id]
            told = events(own)
            account.applies(own)
        assert told == gone

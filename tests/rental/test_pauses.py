"""Accounts that a marketplace refuses are paused: no create is sent that would be refused, and callers see why."""

import pytest

from gpuproxy.health.checkup import Finding, findings
from gpuproxy.model.errors import FailedPrecondition
from tests.world import KEYS, World, in_world


async def told(world: World) -> list[tuple[str, str]]:
    """What doctor reports about the accounts."""
    accounts = {(watch.provider.name, watch.provider.account) for watch in world.engine.watches}
    found: tuple[Finding, ...] = await world.db.read(lambda tx: findings(tx, accounts))
    return [(finding.kind, finding.subject) for finding in found]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("insufficient_credit", "PROVIDER_FUNDS"),
        ("auth_error", "PROVIDER_CREDENTIALS"),
        ("session_expired", "PROVIDER_CREDENTIALS"),
    ],
)
def test_a_refused_account_is_paused_and_gets_no_more_creates(fault: str, reason: str):
    async def story(world: World) -> None:
        world.arm("create", fault, times=0)
        with pytest.raises(FailedPrecondition):
            await world.reserve(1)
        sent = world.calls("create")
        with pytest.raises(FailedPrecondition, match="account vast-1 is paused since") as refused:
            await world.reserve(1, request_id="a")
        assert refused.value.reason == reason
        assert world.calls("create") == sent
        assert await told(world) == [("paused", "vast.ai vast-1")]

    in_world(story)


def test_a_pause_ends_by_itself_and_so_does_its_finding_in_doctor():
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit", times=1)
        with pytest.raises(FailedPrecondition):
            await world.reserve(1)
        await world.sleep(181)
        assert await told(world) == []
        made = await world.reserve(1)
        assert len(made.kept) == 1

    in_world(story)


def test_a_call_refused_by_a_pause_leaves_its_request_id_free():
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit", times=1)
        with pytest.raises(FailedPrecondition):
            await world.reserve(1)
        with pytest.raises(FailedPrecondition, match="paused"):
            await world.reserve(1, request_id="a")
        await world.sleep(181)
        assert len((await world.reserve(1, request_id="a")).kept) == 1

    in_world(story)


def test_another_account_keeps_working_while_one_is_paused():
    async def story(world: World) -> None:
        body = {"provider": "vast.ai", "account": KEYS[0], "call": "create", "fault": "insufficient_credit", "times": 0}
        world.control("POST", "faults", body)
        made = await world.reserve(2)
        assert {lease.account for lease in made.kept} == {"vast-2"}
        refused = sum(lease.reason == "PROVIDER_FUNDS" for lease in made.leases)
        again = await world.reserve(2)
        assert {lease.account for lease in again.leases} == {"vast-2"}
        assert refused >= 1
        assert await told(world) == [("paused", "vast.ai vast-1")]

    in_world(story, accounts=2)


def test_a_key_that_listings_refuse_pauses_until_one_succeeds():
    async def story(world: World) -> None:
        world.arm("list", "auth_error", times=0)
        await world.sleep(40)
        with pytest.raises(FailedPrecondition, match="paused") as refused:
            await world.reserve(1)
        assert refused.value.reason == "PROVIDER_CREDENTIALS"
        await world.sleep(600)
        assert await told(world) == [("paused", "vast.ai vast-1")]
        world.control("DELETE", "faults")
        await world.sleep(40)
        assert await told(world) == []
        assert len((await world.reserve(1)).kept) == 1

    in_world(story)


def test_a_pause_survives_a_restart():
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit", times=1)
        with pytest.raises(FailedPrecondition):
            await world.reserve(1)
        await world.restart()
        with pytest.raises(FailedPrecondition, match="paused"):
            await world.reserve(1)

    in_world(story)


def test_an_account_that_does_not_answer_is_not_paused_but_reported_after_a_minute():
    async def story(world: World) -> None:
        world.arm("list", "html_502", times=0)
        await world.sleep(40)
        assert await told(world) == []
        assert len((await world.reserve(1)).kept) == 1
        await world.sleep(120)
        assert ("silent", "vast.ai vast-1") in await told(world)
        world.control("DELETE", "faults")
        await world.sleep(60)
        assert await told(world) == []

    in_world(story)


def test_a_paused_account_does_not_make_the_server_unready():
    """Callers must still reach the server to release machines."""

    async def story(world: World) -> None:
        await world.sleep(40)
        world.arm("create", "insufficient_credit", times=1)
        with pytest.raises(FailedPrecondition):
            await world.reserve(1)
        assert (await world.engine.readiness.checks())["accounts"] == "ok"

    in_world(story)


def test_a_marketplace_message_for_one_project_is_not_shown_to_another():
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit", times=1)
        with pytest.raises(FailedPrecondition):
            await world.reserve(1, project="p1")
        with pytest.raises(FailedPrecondition, match="credit is used up") as refused:
            await world.reserve(1, project="p2")
        assert "answered" not in refused.value.message

    in_world(story)


def test_an_unanswered_call_after_a_refusal_pauses_nothing():
    async def story(world: World) -> None:
        world.arm("list", "auth_error", times=1)
        await world.sleep(40)
        world.arm("list", "html_502", times=0)
        await world.sleep(200)
        assert await told(world) == [("silent", "vast.ai vast-1")]
        assert len((await world.reserve(1)).kept) == 1

    in_world(story)


def test_creates_that_were_intended_before_the_pause_are_not_sent():
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit", times=0, after=1)
        made = await world.reserve(8)
        assert world.calls("create") == 2
        assert len(made.kept) == 1
        assert {lease.reason for lease in made.leases if lease not in made.kept} == {"PROVIDER_FUNDS"}

    in_world(story, paced=True)


def test_a_problem_of_an_account_that_is_no_longer_configured_is_not_reported():
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit", times=1)
        with pytest.raises(FailedPrecondition):
            await world.reserve(1)
        assert await world.db.read(lambda tx: findings(tx, frozenset())) == ()

    in_world(story)

"""The key of an account that is still in use is not removed by mistake."""

from dataclasses import replace

import pytest

from gpuproxy.app.deployment import WrongDatabase
from gpuproxy.app.removed_keys import claim_accounts, last_accounts
from gpuproxy.health.checkup import findings
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.leases import LeaseState
from gpuproxy.ports import Http, HttpRequest, HttpResponse, ProviderSetup
from gpuproxy.providers.vast import DESCRIPTOR
from gpuproxy.runtime.keyless import Keyless
from tests.world import KEYS, UNPACED, VAST, InlineWorkers, World, in_world


async def start(world: World, *keys: str, force: bool = False) -> list[Keyless]:
    """What a start with these keys says, in this order and under the default names."""
    providers = [world._provider(DESCRIPTOR, number, key) for number, key in enumerate(keys, start=1)]
    return await claim_accounts(world.db, providers, (DESCRIPTOR,), force=force)


class Rotated:
    """A market at which the first account has a new key."""

    def __init__(self, market: Http) -> None:
        self._market = market

    async def send(self, request: HttpRequest) -> HttpResponse:
        assert request.headers["Authorization"] == "Bearer new-key"
        headers = {**request.headers, "Authorization": f"Bearer {KEYS[0]}"}
        return await self._market.send(replace(request, headers=headers))


async def rent_with_second(world: World, **wanted: object) -> str:
    """The contract of a machine that was rented with vast-2."""
    world.arm("create", "insufficient_credit", times=1, account=KEYS[0])
    made = await world.reserve(1, request_id="a", **wanted)
    [lease] = made.kept
    assert lease.account == "vast-2"
    await world.sleep(30)
    await world.engine.billing_checks[0].step()
    return str(lease.instance_id)


def test_a_start_without_the_key_of_rented_machines_is_refused_and_names_them():
    async def story(world: World) -> None:
        contract = await rent_with_second(world)
        with pytest.raises(WrongDatabase) as refused:
            await start(world, KEYS[0])
        text = str(refused.value)
        assert f"vast.ai account vast-2 has 1 machine ({contract})" in text
        assert "Set their keys again under the same names" in text
        assert "--force" in text
        assert not any(key in text for key in KEYS)
        assert await start(world, *KEYS) == []

    in_world(story, accounts=2)


def test_an_unknown_outcome_prevents_the_removal_too():
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit", times=1, account=KEYS[0])
        world.arm("create", "reset_before", times=1, account=KEYS[1])
        await world.reserve(1, request_id="a")
        [lease] = [each for each in await world.leases() if each.state is LeaseState.UNKNOWN]
        with pytest.raises(WrongDatabase, match=rf"1 create with an unknown outcome \({lease.id}\)"):
            await start(world, KEYS[0])

    in_world(story, accounts=2)


def test_an_account_whose_machines_are_gone_may_be_removed():
    async def story(world: World) -> None:
        await rent_with_second(world)
        [reservation] = {lease.reservation_id for lease in await world.live()}
        await world.engine.reservations.release(Caller(project="p1"), reservation)
        await world.sleep(120)
        assert await start(world, KEYS[0]) == []
        assert await world.db.read(last_accounts) == {(VAST, "vast-1")}

    in_world(story, accounts=2)


def test_a_new_key_of_the_same_account_under_the_same_name_is_no_removal():
    async def story(world: World) -> None:
        await world.reserve(1, request_id="a")
        await world.sleep(60)
        setup = ProviderSetup(
            account="vast-1", key="new-key", base_url="http://sandbox", http=Rotated(world.http), clock=world.clock,
            workers=InlineWorkers(), intervals=UNPACED,
        )  # fmt: skip
        assert await claim_accounts(world.db, [DESCRIPTOR.connect(setup)], (DESCRIPTOR,), force=False) == []

    in_world(story)


def test_a_name_that_has_the_key_of_another_account_now_prevents_the_start():
    """The first of two keys without names was removed: the second one is vast-1 now."""

    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a")
        assert [lease.account for lease in made.kept] == ["vast-1"]
        await world.sleep(60)
        with pytest.raises(WrongDatabase) as refused:
            await start(world, KEYS[1])
        assert "the key of vast-1 belongs to account" in str(refused.value)
        assert str(made.kept[0].instance_id) in str(refused.value)
        assert await start(world, KEYS[1], force=True) == []

    in_world(story, accounts=2)


def test_a_marketplace_that_does_not_answer_delays_the_start_but_does_not_prevent_it():
    async def story(world: World) -> None:
        await world.reserve(1, request_id="a")
        await world.sleep(60)
        world.arm("user", "hang_before", times=0)
        began = world.clock.monotonic()
        assert await start(world, KEYS[0]) == []
        assert world.clock.monotonic() - began <= 10

    in_world(story)


def test_a_forced_start_keeps_the_machines_in_doctor_and_rents_with_the_other_accounts():
    async def story(world: World) -> None:
        contract = await rent_with_second(world)
        world.accounts, world.removed = KEYS[:1], await start(world, KEYS[0], force=True)
        assert [each.account for each in world.removed] == ["vast-2"]
        world.control("DELETE", "faults")
        await world.sleep(181)  # the pause of vast-1
        await world.restart()
        await world.sleep(60)
        accounts = {(VAST, "vast-1")}
        [finding] = await world.db.read(lambda tx: findings(tx, accounts))
        assert (finding.kind, finding.subject) == ("unconfigured", "vast.ai vast-2")
        assert f"1 machine ({contract})" in finding.text
        assert "unconfigured 1" in await world.engine.health.summary()
        made = await world.reserve(2, request_id="b")
        assert {lease.account for lease in made.leases} == {"vast-1"}
        [before] = [each for each in await world.live() if each.account == "vast-2"]
        await world.engine.reservations.release(Caller(project="p1"), before.reservation_id)
        await world.sleep(300)
        [after] = [each for each in await world.live() if each.account == "vast-2"]
        assert after.state is LeaseState.RELEASING
        assert contract in world.alive()
        world.accounts, world.removed = KEYS, []
        await world.restart()
        await world.sleep(300)
        assert contract not in world.alive()
        await world.books_agree()

    in_world(story, accounts=2)


def test_with_only_removed_accounts_nothing_can_be_rented():
    async def story(world: World) -> None:
        await world.reserve(1, request_id="a")
        await world.sleep(30)
        world.accounts, world.removed = (), await start(world, force=True)
        await world.restart()
        with pytest.raises(FailedPrecondition) as refused:
            await world.reserve(1, request_id="b")
        assert refused.value.reason == "NO_ACCOUNT"

    in_world(story)

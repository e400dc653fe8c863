"""What is shown of machines that end themselves, and a marketplace whose containers can't."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gpuproxy.edge.messages.instances import rented
from gpuproxy.health.checkup import findings
from gpuproxy.model import self_ending
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.lease_facts import Booted
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.providers.vast.adapter import missing
from tests.providers.test_vast_create import noise
from tests.reconcile.test_lease_ends import CALLER, LEASE, _label, _now, _one
from tests.world import VAST, World, in_world


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("watching", ("unsupported: stopped", "stopped")),
        ("requested", ("unsupported: stopped", "stopped")),
        ("no_key", ("unsupported: no_key", "no_key")),
    ],
)
def test_a_stopped_machine_is_not_shown_as_ending_itself(word: str, shown: tuple[str, str]) -> None:
    async def story(world: World) -> None:
        running = Booted((("ending", word),)).change(await _one(world))
        seen = rented(replace(running, state=LeaseState.PARKED), Micro(0))
        assert (seen.self_ending, seen.boot_parts["ending"]) == shown
        assert rented(running, Micro(0)).boot_parts["ending"] == word

    in_world(story)


@pytest.mark.parametrize(
    ("boot", "shown"),
    [
        ((("ending", "requested"),), "sent"),
        ((("ending", "watching"),), "confirmed"),
        ((("ending", "no_https_client"),), "unsupported: no_https_client"),
        ((("ending", "not reported"),), "unsupported: not_reported"),
        ((("ending", "unsupported in entrypoint mode"),), "unsupported: in entrypoint mode"),
        ((), "unsupported: it was rented without it"),
    ],
)
def test_what_the_machine_reported_is_shown(boot: tuple[tuple[str, str], ...], shown: str) -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        changed = Booted(boot).change(lease)
        assert self_ending.state(changed) == shown
        assert self_ending.state(replace(changed, kind="volume")) == ""
        if not boot:
            assert self_ending.state(replace(changed, expires_at=None)) == "unsupported: no_end"

    in_world(story)


def test_where_a_container_was_measured_not_to_read_itself_the_switch_is_off_and_says_so() -> None:
    assert "container_key" not in missing(None)
    assert "container_key" not in missing(True)
    assert "can't read its own label" in missing(False)["container_key"]

    async def story(world: World) -> None:
        provider = next(iter(world.engine.accounts))
        provider.capabilities = replace(provider.capabilities, missing=missing(False))
        lease = await _one(world)
        assert _label(world, lease) == lease.label
        assert self_ending.state(lease).startswith("unsupported: a machine of this account can't read")
        before = world.calls("label")
        await world.engine.reservations.extend(CALLER, lease.reservation_id, world.clock.now() + timedelta(hours=3))
        assert world.calls("label") == before

    in_world(story)


def test_doctor_says_which_machines_with_an_end_do_not_end_themselves() -> None:
    async def story(world: World) -> None:
        accounts = [(VAST, "vast-1")]
        await _one(world, lease=0)
        assert not await world.db.read(lambda tx: findings(tx, accounts))
        lease = await _one(world)
        await world.sleep(600)
        assert self_ending.state(await _now(world, lease)) == "unsupported: not_reported"  # the sandbox runs no script
        [found] = await world.db.read(lambda tx: findings(tx, accounts))
        assert (found.kind, found.notice) == ("self_ending", True)
        assert "1 unsupported: not_reported. 1 more have no end." in found.text

    in_world(story)


@pytest.mark.parametrize(("size", "ends"), [(60, "sent"), (2_600, "unsupported: no_room")])
def test_a_script_that_leaves_no_room_for_the_watchdog_is_told_in_the_answer_of_the_call(size: int, ends: str) -> None:
    async def story(world: World) -> None:
        spec = LaunchSpec(onstart=f"echo {noise(size)}")
        view = await world.reserve(1, lease=LEASE, spec=spec, seconds=600)
        assert [self_ending.state(lease) for lease in view.leases] == [ends]
        told = "ending: unsupported no_room" in view.reservation.message
        assert told is (ends != "sent")
        await world.sleep(600)
        assert self_ending.state((await world.live())[0]) == (ends if told else "unsupported: not_reported")
        [found] = await world.db.read(lambda tx: findings(tx, [(VAST, "vast-1")]))
        assert ("1 unsupported: no_room" in found.text) is told

    in_world(story)


def test_without_room_for_the_watchdog_an_extension_writes_no_label() -> None:
    async def story(world: World) -> None:
        view = await world.reserve(1, lease=LEASE, spec=LaunchSpec(onstart=f"echo {noise(2_600)}"), seconds=600)
        await world.sleep(300)
        before = world.calls("label")
        end = world.clock.now() + timedelta(hours=3)
        longer = await world.engine.reservations.extend(CALLER, view.reservation.id, end)
        assert (longer.reservation.expires_at, world.calls("label")) == (end, before)

    in_world(story)

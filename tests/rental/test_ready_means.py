"""A machine is active when a caller can get in, and says what was seen."""

from collections import deque
from datetime import timedelta

import pytest

from gpuproxy.edge.messages.reservations import reservation_message
from gpuproxy.identity.key_rings import SshKeyRing
from gpuproxy.model.demands import DEFAULT_READY_TIMEOUT, Caller, LaunchSpec, RunMode
from gpuproxy.model.leases import LeaseState
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import databases
from tests.world import World, in_world

pytestmark = pytest.mark.long

CALLER = Caller(project="p1")
CHECK_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl gpuproxy-check"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGrTUxB3EwNmkAlDTcLBpJs8kfdO7JzOw0wJdBX0Yd4t me@example"


async def rented(world: World, spec: LaunchSpec) -> pb.GPUInstance:
    made = await world.reserve(1, wait_for="ready", seconds=1500, spec=spec, request_id="a")
    assert made.leases[0].state is LeaseState.ACTIVE, made.leases
    (instance,) = reservation_message(await world.engine.reservations.by_id(CALLER, made.reservation.id)).instances
    return instance


@pytest.mark.parametrize(
    ("spec", "evidence"),
    [
        (LaunchSpec(), "ssh greets"),
        (LaunchSpec(ports=(8000,)), "ssh greets"),
        (LaunchSpec(run_mode="jupyter"), "ssh greets"),
        (LaunchSpec(run_mode="entrypoint", ports=(8000,)), "port 8000 accepts"),
        (LaunchSpec(run_mode="entrypoint"), "running"),
    ],
)
def test_a_ready_machine_says_what_was_seen(spec: LaunchSpec, evidence: str) -> None:
    async def story(world: World) -> None:
        instance = await rented(world, spec)
        assert (instance.status, instance.ready_evidence) == ("active", evidence)
        assert instance.HasField("ssh") is (spec.run_mode != "entrypoint")

    in_world(story)


@pytest.mark.parametrize("run_mode", ["ssh", "jupyter"])
@pytest.mark.parametrize("fault", ["proxy_down", "direct_down"])
def test_one_address_that_answers_is_enough_and_is_the_one_that_is_shown(run_mode: RunMode, fault: str) -> None:
    async def story(world: World) -> None:
        world.arm("create", fault)
        instance = await rented(world, LaunchSpec(run_mode=run_mode))
        (row,) = world.market["instances"]
        assert instance.ready_evidence == "ssh greets"
        assert [f"127.0.0.1:{instance.ssh.port}"] == [str(each) for each in row["ssh_addresses"]]
        await world.sleep(3600)
        (row,) = world.market["instances"]
        assert row["destroyed_at"] is None

    in_world(story)


def test_a_requested_port_counts_if_ssh_is_silent_until_the_ready_timeout() -> None:
    async def story(world: World) -> None:
        world.arm("create", "ssh_down")
        instance = await rented(world, LaunchSpec(ports=(8000,)))
        assert instance.ready_evidence == "port 8000 accepts"
        waited = instance.ready_at.ToDatetime() - instance.created_at.ToDatetime()
        assert waited >= DEFAULT_READY_TIMEOUT

    in_world(story)


@pytest.mark.parametrize("stopped_for", [60.0, 2 * DEFAULT_READY_TIMEOUT.total_seconds()])
def test_a_port_does_not_count_for_a_restarted_machine_whose_ssh_is_silent(stopped_for: float) -> None:
    async def story(world: World) -> None:
        instance = await rented(world, LaunchSpec(ports=(8000,)))
        contract = instance.contract_id
        await world.engine.machines.stop(CALLER, "vast.ai", contract)
        await world.sleep(stopped_for)
        world.sandbox.market.instances[int(contract)].unreachable = "ssh_down"
        await world.engine.machines.start(CALLER, "vast.ai", contract)
        await world.sleep(300)
        (lease,) = await world.live()
        assert lease.state is LeaseState.STARTING

    in_world(story, boot_time=(20.0, 20.0))


def test_a_restarted_machine_that_was_ready_by_its_port_is_ready_by_its_port_again() -> None:
    async def story(world: World) -> None:
        world.arm("create", "ssh_down")
        instance = await rented(world, LaunchSpec(ports=(8000,)))
        await world.engine.machines.stop(CALLER, "vast.ai", instance.contract_id)
        await world.sleep(60)
        await world.engine.machines.start(CALLER, "vast.ai", instance.contract_id)
        await world.sleep(300)
        (lease,) = await world.live()
        assert (lease.state, lease.observed.ready_evidence) == (LeaseState.ACTIVE, "port 8000 accepts")

    in_world(story, boot_time=(20.0, 20.0))


def test_without_a_requested_port_a_machine_without_ssh_is_replaced() -> None:
    async def story(world: World) -> None:
        world.arm("create", "ssh_down")
        patience = timedelta(seconds=120)
        made = await world.reserve(1, wait_for="ready", seconds=1500, ready_timeout=patience, request_id="a")
        assert [lease.reason for lease in made.leases] == ["NOT_READY", ""]

    in_world(story)


def test_a_machine_none_of_whose_addresses_answers_is_replaced() -> None:
    async def story(world: World) -> None:
        world.arm("create", "no_ssh")
        made = await world.reserve(
            1, wait_for="ready", seconds=1500, ready_timeout=timedelta(seconds=120), request_id="a"
        )
        assert [lease.reason for lease in made.leases] == ["NOT_READY", ""]

    in_world(story)


# -- keys


def keys_of(world: World) -> list[list[str]]:
    return [row["authorized_keys"] for row in world.market["instances"]]


def parts(instance: pb.GPUInstance) -> dict[str, str]:
    return dict(instance.boot_parts)


def test_the_keys_of_a_call_are_registered_before_its_machine_is_ready() -> None:
    async def story(world: World) -> None:
        instance = await rented(world, LaunchSpec(ssh_public_keys=(KEY,)))
        assert parts(instance)["marketplace_keys"] == "registered"
        assert world.calls("ssh_key") == 1

    in_world(story)


def test_a_machine_without_keys_makes_no_calls_for_keys() -> None:
    async def story(world: World) -> None:
        assert "marketplace_keys" not in parts(await rented(world, LaunchSpec()))
        assert world.calls("ssh_key") == 0

    in_world(story)


def test_keys_stay_when_the_host_renews_the_keys_of_the_machine() -> None:
    async def story(world: World) -> None:
        world.arm("create", "keys_refreshed", seconds=60)
        await rented(world, LaunchSpec(ssh_public_keys=(KEY,)))
        await world.sleep(600)
        assert [[key.split()[1] for key in keys] for keys in keys_of(world)] == [[KEY.split()[1]]]

    in_world(story)


@pytest.mark.parametrize("fault", ["status_503_after", "reset_before", "reset_after", "rate_limited", "html_502"])
def test_a_registration_that_failed_is_tried_again(fault: str) -> None:
    async def story(world: World) -> None:
        world.arm("ssh_key", fault, times=2)
        instance = await rented(world, LaunchSpec(ssh_public_keys=(KEY,)))
        assert parts(instance)["marketplace_keys"] == "registered"
        assert len(keys_of(world)[0]) == 1

    in_world(story)


def test_a_machine_whose_keys_are_always_refused_is_kept_and_says_so() -> None:
    async def story(world: World) -> None:
        world.arm("ssh_key", "key_refused", times=0, msg="Invalid ssh key")
        instance = await rented(world, LaunchSpec(ssh_public_keys=(KEY,)))
        assert parts(instance)["marketplace_keys"] == "refused"
        assert world.calls("ssh_key") == 3

    in_world(story)


def test_one_refused_key_does_not_keep_the_others_away() -> None:
    async def story(world: World) -> None:
        world.arm("ssh_key", "key_refused", times=3, msg="Invalid ssh key")
        instance = await rented(world, LaunchSpec(ssh_public_keys=(KEY, CHECK_KEY)))
        assert parts(instance)["marketplace_keys"] in ("refused", "registered")
        assert CHECK_KEY.split()[1] in [key.split()[1] for key in keys_of(world)[0]]
        assert world.calls("ssh_key") <= 6

    in_world(story)


def test_an_outage_of_the_calls_for_keys_is_no_refusal_and_ends_with_the_keys_registered() -> None:
    async def story(world: World) -> None:
        world.arm("ssh_key", "status_503_before", times=0)
        instance = await rented(world, LaunchSpec(ssh_public_keys=(KEY,)))
        assert parts(instance)["marketplace_keys"] == "unregistered"
        world.control("DELETE", "faults")
        await world.sleep(600)
        (lease,) = await world.live()
        assert lease.pending.keys_state == "registered"
        assert KEY.split()[1] in keys_of(world)[0][0]

    in_world(story)


def test_the_keys_of_the_project_are_registered_after_a_restart_too() -> None:
    async def story(world: World) -> None:
        world.arm("ssh_key", "reset_before", times=1)
        await world.reserve(1, wait_for="created", spec=LaunchSpec(ssh_public_keys=(KEY,)), request_id="a")
        await world.restart()
        await world.sleep(600)
        (lease,) = await world.live()
        assert (lease.state, lease.pending.keys_state) == (LeaseState.ACTIVE, "registered")

    in_world(story)


def test_with_run_mode_entrypoint_the_keys_of_the_project_are_reported_as_unsupported() -> None:
    async def story(world: World) -> None:
        await SshKeyRing(world.db, world.random).add("p1", "laptop", KEY, "SHA256:1")
        instance = await rented(world, LaunchSpec(run_mode="entrypoint"))
        assert parts(instance) == {"keys": "unsupported in entrypoint mode"}
        assert world.calls("ssh_key") == 0
        (lease,) = await world.live()
        told = reservation_message(await world.engine.reservations.by_id(CALLER, lease.reservation_id))
        assert "keys: unsupported in entrypoint mode" in told.message

    in_world(story)


# -- leases of older versions


def forget_new_facts(world: World) -> None:
    """Let all leases look as if they had been written before the database had the new columns."""
    databases.rows(
        world.db, "UPDATE leases SET run_mode = '', asked_ports = '[]', ssh_keys = '[]', keys_state = '', boot = '[]'"
    )


@pytest.mark.parametrize(
    "spec", [LaunchSpec(), LaunchSpec(run_mode="entrypoint"), LaunchSpec(run_mode="entrypoint", ports=(8000,))]
)
def test_a_machine_of_an_older_version_gets_ready_after_the_upgrade(spec: LaunchSpec) -> None:
    async def story(world: World) -> None:
        patience = timedelta(seconds=300)
        await world.reserve(1, spec=spec, ready_timeout=patience, request_id="a")
        await world.kill()
        forget_new_facts(world)
        await world.start()
        await world.sleep(1200)
        assert [lease.state for lease in await world.leases()] == [LeaseState.ACTIVE]

    in_world(story)


def test_a_machine_of_an_older_version_is_active_again_after_a_stop_and_a_start() -> None:
    async def story(world: World) -> None:
        contract = (await rented(world, LaunchSpec(run_mode="entrypoint"))).contract_id
        await world.kill()
        forget_new_facts(world)
        await world.start()
        await world.engine.machines.stop(CALLER, "vast.ai", contract)
        await world.sleep(300)
        await world.engine.machines.start(CALLER, "vast.ai", contract)
        await world.sleep(600)
        assert [lease.state for lease in await world.leases()] == [LeaseState.ACTIVE]

    in_world(story)


# -- logins with a check key


def test_a_check_key_that_is_set_later_is_not_asked_of_machines_rented_before() -> None:
    async def story(world: World) -> None:
        await world.reserve(1, ready_timeout=timedelta(seconds=300), request_id="a")
        await world.kill()
        world.check_key = CHECK_KEY
        await world.start()
        await world.sleep(1500)
        assert [(lease.state, lease.observed.ready_evidence) for lease in await world.leases()] == [
            (LeaseState.ACTIVE, "ssh greets")
        ]

    in_world(story)


def test_with_a_check_key_ready_means_that_the_machine_lets_in() -> None:
    async def story(world: World) -> None:
        instance = await rented(world, LaunchSpec())
        assert instance.ready_evidence == "ssh lets in"
        assert CHECK_KEY.split()[1] in [key.split()[1] for key in keys_of(world)[0]]

    in_world(story, check_key=CHECK_KEY)


def test_with_a_check_key_a_machine_that_only_greets_is_not_ready() -> None:
    async def story(world: World) -> None:
        world.arm("ssh_key", "key_refused", times=0)
        world.arm("create", "keys_refreshed", times=0, seconds=0)
        made = await world.reserve(1, wait_for="ready", seconds=600, request_id="a", on_not_ready="keep")
        assert [lease.state for lease in made.leases] == [LeaseState.STARTING]

    in_world(story, check_key=CHECK_KEY)


# -- the boot report


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("gpuproxy-boot: version=1 keys=added onstart=started", {"keys": "added", "onstart": "started"}),
        ("gpuproxy-boot: version=1 onstart=failed", {"keys": "not reported", "onstart": "failed"}),
        ("gpuproxy-boot: version=1 keys=hacked onstart=started", {"keys": "not reported", "onstart": "started"}),
    ],
)
def test_what_the_boot_script_reported_is_read_from_the_log(line: str, found: dict[str, str]) -> None:
    async def story(world: World) -> None:
        instance = await rented(world, LaunchSpec(onstart="true", ssh_public_keys=(KEY,)))
        assert parts(instance)["onstart"] == "requested"
        world.sandbox.market.printed[int(instance.contract_id)] = deque(["hello", line, "goodbye"])
        await world.sleep(600)
        (lease,) = await world.live()
        assert dict(lease.observed.boot) == found

    in_world(story)


def test_logs_are_read_one_at_a_time_so_that_a_stop_does_not_wait_for_them() -> None:
    async def story(world: World) -> None:
        await world.reserve(8, wait_for="ready", seconds=1500, spec=LaunchSpec(onstart="true"), request_id="a")
        first = (await world.live())[0]
        began = world.clock.monotonic()
        await world.engine.machines.stop(CALLER, "vast.ai", str(first.instance_id))
        assert world.clock.monotonic() - began < 10

    in_world(story, paced=True)


def test_a_boot_that_is_never_reported_is_said_to_be_so_after_a_few_reads() -> None:
    async def story(world: World) -> None:
        instance = await rented(world, LaunchSpec(onstart="true"))
        assert parts(instance) == {"onstart": "requested"}
        await world.sleep(600)
        (lease,) = await world.live()
        assert lease.observed.boot == (("onstart", "not reported"),)
        assert world.calls("logs") == 3

    in_world(story)

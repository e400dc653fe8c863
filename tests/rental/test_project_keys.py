"""The SSH keys of a project are on every machine that it rents, and on no machine of another project."""

import json

from gpuproxy.identity.key_rings import SshKeyRing
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.ports import HttpRequest
from tests.edge.test_fields import ecdsa_key, ssh_key
from tests.world import World, in_world


def scripts(world: World) -> list[str]:
    """The start scripts of all machines that are created from now on."""
    found: list[str] = []

    def hear(request: HttpRequest) -> None:
        if request.method == "PUT":
            found.append(json.loads(request.body or b"{}")["onstart"] or "")

    world.overhear.append(hear)
    return found


def test_every_machine_gets_its_projects_keys_and_the_callers_each_once() -> None:
    mine, project = ecdsa_key(), ssh_key()

    async def story(world: World) -> None:
        ring, started = SshKeyRing(world.db, world.random), scripts(world)
        await ring.add("p1", "laptop", project, "SHA256:1")
        await ring.add("p2", "theirs", "ssh-ed25519 THEIRS", "SHA256:2")
        await world.reserve(3, spec=LaunchSpec(ssh_public_keys=(mine, project), onstart="echo hi"))
        assert len(started) == 3
        for script in started:
            assert (script.count(mine), script.count(project), script.count("THEIRS")) == (1, 1, 0)
            assert "\necho hi\n" in script

    in_world(story)


def test_a_replacement_gets_the_keys_too_and_a_deleted_key_is_on_no_new_machine() -> None:
    async def story(world: World) -> None:
        ring, started = SshKeyRing(world.db, world.random), scripts(world)
        row = await ring.add("p1", "laptop", ssh_key(), "SHA256:1")
        world.arm("create", "offer_gone", times=2)
        await world.reserve(2)
        assert [script.count(ssh_key()) for script in started] == [1] * 4
        assert await ring.delete("p1", row.id)
        await world.reserve(1)
        assert started[4:] == [""]

    in_world(story)


def test_project_keys_do_not_change_the_demand_and_exclude_no_run_mode() -> None:
    async def story(world: World) -> None:
        ring = SshKeyRing(world.db, world.random)
        first = await world.reserve(1, request_id="same")
        await ring.add("p1", "laptop", ssh_key(), "SHA256:1")
        again = await world.reserve(1, request_id="same")
        await world.reserve(1, spec=LaunchSpec(run_mode="entrypoint"))
        assert first.reservation.id == again.reservation.id
        assert world.created() == 2

    in_world(story)

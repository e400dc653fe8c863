"""A launch that no marketplace accepts is refused before anything is contacted, rented or stored."""

import pytest

from gpuproxy.identity.key_rings import SshKeyRing
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.ports import Provider
from tests.edge.test_fields import ssh_key
from tests.providers.test_vast_create import noise
from tests.world import World, in_world

TOO_LONG = LaunchSpec(onstart=noise(40_000))


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_start_script_that_is_too_long_is_refused_with_its_size(dry_run: bool) -> None:
    async def story(world: World) -> None:
        before = world.http.requests
        with pytest.raises(InvalidArgument) as refused:
            await world.reserve(1, spec=TOO_LONG, request_id="long", dry_run=dry_run)
        [violation] = refused.value.violations
        assert violation.field == "onstart"
        assert violation.description.endswith(" characters after compression; vast.ai takes at most 4,048")
        assert (world.http.requests, await world.reservations(), await world.leases()) == (before, 0, ())

    in_world(story)


def test_a_long_script_that_can_be_compressed_is_rented_with() -> None:
    async def story(world: World) -> None:
        await world.reserve(1, spec=LaunchSpec(onstart="echo 'the same again'\n" * 2_000))
        assert world.created() == 1

    in_world(story)


def test_a_launch_is_checked_again_with_the_projects_keys_before_anything_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A marketplace that objects to keys does so before the first intent, although it learns of them late."""

    async def story(world: World) -> None:
        await SshKeyRing(world.db, world.random).add("p1", "laptop", ssh_key(), "SHA256:1")
        for provider in world.engine.accounts:
            monkeypatch.setattr(type(_innermost(provider)), "check_launch", _objects_to_keys)
        with pytest.raises(InvalidArgument, match="no keys here"):
            await world.reserve(1)
        assert (world.calls("create"), await world.reservations(), await world.leases()) == (0, 0, ())

    in_world(story)


def _objects_to_keys(_provider: object, spec: LaunchSpec) -> tuple[Violation, ...]:
    return (Violation("ssh_public_keys", "no keys here"),) if spec.ssh_public_keys else ()


def _innermost(provider: Provider) -> object:
    return getattr(provider, "_provider", provider)

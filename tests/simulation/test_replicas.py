"""Two or three servers on one database: some of the stories of `make replicas`, and checks of them."""

import pytest

from gpuproxy.app import deployment
from gpuproxy.runtime.claims import HeldClaim
from gpuproxy.store import claims
from gpuproxy.store.claims import Claim
from tests.simulation import replicas, replicas_pools
from tests.simulation.audit import Violation
from tests.virtual_time import SkewedClock


@pytest.mark.seeds(3, 200)
def test_several_servers_keep_every_promise(seed: int):
    try:
        replicas.run(seed)
    except Violation as violation:
        pytest.fail(f"seed {seed}: {violation}")


@pytest.mark.seeds(1, 60)
def test_no_volume_has_two_writers_with_several_servers(seed: int):
    try:
        replicas_pools.run(seed)
    except Violation as violation:
        pytest.fail(f"seed {seed}: {violation}")


@pytest.mark.sampled(0)
def test_the_same_seed_gives_the_same_story_and_another_seed_another_one():
    first = replicas.run(3)
    assert replicas.run(3) == first
    assert replicas.run(4).digest != first.digest


@pytest.mark.sampled(0)
def test_servers_that_do_not_check_their_claims_are_noticed(monkeypatch: pytest.MonkeyPatch):
    had: dict[int, Claim] = {}

    def not_lost(claim: HeldClaim) -> Claim | None:
        """What this server had last: it never learns that it has lost it."""
        if claim._claim is not None:
            had[id(claim)] = claim._claim
        return had.get(id(claim))

    monkeypatch.setattr(claims, "require", lambda _tx, _claim: None)
    monkeypatch.setattr(HeldClaim, "claim", property(not_lost))
    with pytest.raises(Violation, match="fence"):
        for seed in range(30):
            replicas.run(seed)


@pytest.mark.sampled(0)
def test_servers_that_trust_their_own_clocks_are_noticed(monkeypatch: pytest.MonkeyPatch):
    async def trusting(_db: object, clock: SkewedClock) -> SkewedClock:
        return clock

    monkeypatch.setattr(deployment, "steady_clock", trusting)
    with pytest.raises(Violation):
        for seed in range(60):
            replicas.run(seed)

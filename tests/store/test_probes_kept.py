"""What a probe has measured decides at the next start whether machines can end themselves."""

from datetime import UTC, datetime

import pytest

from gpuproxy.model.leases import ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.probes import Measurement, Probe
from gpuproxy.store import probes
from tests.world import World, in_world

NOW = datetime(2026, 6, 12, 12, 0, tzinfo=UTC)
MAIN = (ProviderName("vast.ai"), "vast-1")


@pytest.mark.parametrize(("word", "can"), [("yes", True), ("no", False)])
def test_the_last_measurement_of_a_container_key_is_read(word: str, can: bool) -> None:
    async def story(world: World) -> None:
        assert await world.db.read(lambda tx: probes.container_key(tx, MAIN)) is None
        fact = Measurement(name="container_key", outcome="measured", value=word, at=NOW)
        last = Probe(
            account=MAIN,
            reservation_id=ReservationId("res-a"),
            project="ops",
            state="finished",
            began_at=NOW,
            budget=Micro(1),
        )
        stored = probes.Probed(last=last, facts=(fact,))
        await world.db.write(lambda tx: probes.save(tx, stored))
        assert await world.db.read(lambda tx: probes.container_key(tx, MAIN)) is can

    in_world(story)

"""The calls about volumes are passed on and counted, each under its own name."""

import pytest

from gpuproxy.app.metrics import Counted, Metrics
from gpuproxy.model.errors import VolumeInUse
from tests.providers.wires import LABEL, VOLUME, VOLUME_OFFER, Script, says, vast
from tests.virtual_time import VirtualClock, run_virtual

ANSWER = says({"success": True, "volume_name": VOLUME, "offers": [], "volumes": []})
TAKEN = says({"success": False, "error": "invalid_args", "msg": "volume 5 is in use"}, 400)


def test_each_call_about_volumes_is_passed_on_and_counted() -> None:
    async def use(clock: VirtualClock) -> set[tuple[str, str]]:
        ended: set[tuple[str, str]] = set()
        provider = Counted(
            vast(Script(ANSWER, ANSWER, ANSWER, TAKEN), clock),
            Metrics(),
            clock,
            lambda _provider, call: lambda outcome: ended.add((call, outcome)),
        )
        assert not await provider.volume_offers(["29575"], 50)
        assert (await provider.create_volume(VOLUME_OFFER, 50, LABEL)).instance_id == VOLUME
        assert not (await provider.list_volumes()).volumes
        with pytest.raises(VolumeInUse):
            await provider.delete_volume(VOLUME)
        return ended

    assert run_virtual(use) == {
        ("volume_search", "ok"),
        ("volume_create", "ok"),
        ("volume_list", "ok"),
        ("volume_delete", "VOLUME_IN_USE"),
    }

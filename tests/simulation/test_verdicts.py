"""The simulation notices a working machine that is released as NOT_READY, and nothing else."""

from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.sandbox.market import addresses
from tests.simulation.audit import Violation, no_working_machine_was_given_up
from tests.simulation.verdicts import Verdicts
from tests.simulation.weather import weather_of
from tests.world import World, in_world


def _wrong(fault: str, spec: LaunchSpec, *, seconds: float = 900, ready_timeout: float = 300, **options: Any) -> int:
    """How many releases are noted when a machine with a fault is waited for."""

    async def story(world: World) -> int:
        verdicts = Verdicts(world)
        if fault:
            world.arm("create", fault, times=0, seconds=60)
        await world.reserve(1, spec=spec, ready_timeout=timedelta(seconds=ready_timeout), min_count=1)
        await world.sleep(seconds)
        return len(verdicts.wrong)

    return in_world(story, **{"boot_time": (5.0, 5.0), "machines": 8, **options})


@pytest.mark.parametrize("fault", ["", "direct_down", "no_ssh", "never_ready", "host_fault"])
def test_a_machine_that_is_kept_or_can_not_be_used_is_not_noted(fault: str):
    assert _wrong(fault, LaunchSpec()) == 0


@pytest.mark.parametrize(("boots_at", "noted"), [(5.0, True), (290.0, False)])
def test_a_release_of_a_machine_that_has_worked_for_a_minute_is_noted(
    monkeypatch: pytest.MonkeyPatch, boots_at: float, noted: bool
):
    """The market says that the machine works although nothing answers: the program can't know better."""
    monkeypatch.setattr(addresses, "works", lambda _instance: True)
    assert (_wrong("no_ssh", LaunchSpec(), boot_time=(boots_at, boots_at)) > 0) is noted


def test_noted_releases_are_a_violation_and_none_are_not():
    async def story(world: World) -> None:
        verdicts = Verdicts(world)
        no_working_machine_was_given_up(verdicts)
        verdicts.wrong += ["one", "two"]
        with pytest.raises(Violation) as found:
            no_working_machine_was_given_up(verdicts)
        assert (found.value.kind, found.value.times) == ("working", 2)

    in_world(story)


def test_the_weather_has_every_run_mode_hosts_without_ports_and_one_address():
    weathers = [weather_of(seed) for seed in range(100)]
    assert {mode for weather in weathers for mode in weather.run_modes} == {"ssh", "jupyter", "entrypoint"}
    for name in ("one_address", "portless", "keys_refreshed_after"):
        values = {getattr(weather, name) for weather in weathers}
        assert 0.0 in values
        assert max(values) > 0
    faults = {fault for weather in weathers for _, fault in weather.faults}
    assert {"proxy_down", "direct_down", "keys_refreshed", "key_refused"} <= faults

"""Searches for callers that have little time."""

from dataclasses import replace

import pytest

from gpuproxy.model.errors import ProviderUnavailable
from tests.catalog.test_catalog import ANY, Account, Street, catalog_of
from tests.markets import VAST, offer
from tests.virtual_time import VirtualClock, run_virtual


@pytest.mark.parametrize(("seconds", "failures"), [(3, 0), (20, 1)])
def test_a_search_that_runs_out_of_its_callers_short_time_is_no_failure_of_an_account(
    seconds: float, failures: int
) -> None:
    """A caller with little time says nothing about the marketplace. One that had as long as any does."""

    async def scene(clock: VirtualClock) -> None:
        street = Street(clock, [offer(1), offer(2)], page=1, fault=ProviderUnavailable("cut"), fault_after_pages=1)
        catalog = catalog_of(clock, Account(street), Account(street, account="second"))
        await catalog.step(VAST)
        [source] = catalog._sources.values()
        for circuit in source.circuits.values():
            circuit.succeeded()
        street.silent = True
        await catalog.targeted(replace(ANY, min_vram=2), clock.monotonic() + seconds)
        assert (
            sum(circuit.failures for circuit in source.circuits.values()) == failures
        )  # the last one ends with the call

    run_virtual(scene)

"""Offers that have ended are in no list, and offers that can't be used are no reason to search no further."""

from dataclasses import replace
from datetime import timedelta

from gpuproxy.model.errors import ProviderUnavailable
from gpuproxy.model.groups import Alike
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import OfferId
from tests.catalog.test_catalog import ANY, Account, Street, at_noon, catalog_of, ids
from tests.markets import VAST, offer
from tests.virtual_time import DAY_ONE, VirtualClock


@at_noon
async def test_an_offer_that_has_ended_is_in_no_list(clock: VirtualClock) -> None:
    ends = DAY_ONE + timedelta(seconds=60)
    catalog = catalog_of(clock, Account(Street(clock, [offer(1), offer(2, expires_at=ends)])))
    await catalog.step(VAST)
    assert await ids(catalog) == ["vast-1", "vast-2"]
    await clock.sleep(61)
    assert await ids(catalog) == ["vast-1"]
    market = await catalog.market(ANY)
    assert market.select(ANY).rejected == {"ends_too_soon": 1}
    known = market.offer(OfferId("vast-2"))
    assert known is not None
    assert known.expires_at == ends


@at_noon
async def test_offers_that_end_too_soon_do_not_make_a_search_for_the_demand_unnecessary(clock: VirtualClock) -> None:
    soon = DAY_ONE + timedelta(hours=1)
    known = [offer(number, gpu_price=Micro(number), expires_at=soon) for number in range(1, 31)]
    late = [offer(1000 + number, gpu_price=Micro(2_000_000)) for number in range(40)]
    street = Street(clock, known + late, page=10, fault=ProviderUnavailable("cut"), fault_after_pages=3)
    catalog = catalog_of(clock, Account(street))
    await catalog.step(VAST)
    await catalog.targeted(ANY, clock.monotonic() + 20)
    assert len(street.searches) == 1
    street.fault = None
    until = DAY_ONE + timedelta(hours=2)
    await catalog.targeted(ANY, clock.monotonic() + 20, until=until)
    assert (await catalog.market(ANY)).select(ANY, until).available_gpus >= 16


@at_noon
async def test_offers_of_many_countries_do_not_make_a_search_for_one_country_unnecessary(clock: VirtualClock) -> None:
    places = [f"Somewhere, {chr(65 + number)}X" for number in range(26)]
    known = [offer(number, gpu_price=Micro(number), location=place) for number, place in enumerate(places)]
    swedish = [offer(1000 + number, gpu_price=Micro(2_000_000), location="Sweden, SE") for number in range(40)]
    street = Street(clock, known + swedish, page=26, fault=ProviderUnavailable("cut"), fault_after_pages=1)
    catalog = catalog_of(clock, Account(street))
    await catalog.step(VAST)
    await catalog.targeted(ANY, clock.monotonic() + 20)
    assert len(street.searches) == 1
    street.fault = None
    await catalog.targeted(ANY, clock.monotonic() + 20, alike=Alike(country=True))
    assert len(street.searches) == 2
    assert len(await ids(catalog, replace(ANY, location="SE"))) >= 16

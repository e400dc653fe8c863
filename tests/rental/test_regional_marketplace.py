"""Regional keys on a pretend marketplace, the documentation's example: each key sees and rents its own region only.

The regions come from the settings, as an operator writes them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.app import marketplaces
from gpuproxy.config.settings import settings_class
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.offers import Offer, OfferFilter, ProviderName
from gpuproxy.ports import Database, Descriptor, HttpRequest, HttpResponse, ProviderSetup
from gpuproxy.runtime.circuits import OPEN_AFTER
from tests.moon import KEY, StandIn
from tests.mortal import MortalHttp
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import InlineWorkers, World

# isort: split
import moon_marketplace as moon  # found beside the documentation only, by tests.moon

MOON = ProviderName("moon.example")
PLACES = {"m0": "Berlin, DE", "m1": "Munich, DE", "m2": "Texas, US", "m3": "Ohio, US", "m4": "Reykjavik, IS"}
"""By machine. There are no others."""
ANY = OfferFilter(max_price=100.0, verified_only=False)


class RegionalStandIn(StandIn):
    """The stand-in with a place for each machine. A key sees and rents only what is in its region."""

    def __init__(self, regions: Mapping[str, str]) -> None:
        """`regions`: the countries of each account's key."""
        super().__init__()
        self.offers = [offer for offer in self.offers if offer["machine"] in PLACES]
        self.regions = regions
        self.foreign: list[tuple[str, str]] = []
        """Creates of an offer of another region: the account and the machine."""
        self.down: set[str] = set()
        """Accounts whose searches get no usable answer."""

    def of(self, account: str) -> "Door":
        return Door(self, account)


class Door:
    """The stand-in as one key sees it."""

    def __init__(self, market: RegionalStandIn, account: str) -> None:
        self._market = market
        self._account = account

    async def send(self, request: HttpRequest) -> HttpResponse:
        market, everything = self._market, self._market.offers
        if self._account in market.down and "/offers" in request.url:
            return HttpResponse(status=502, headers={}, body=b"")
        market.offers = [each for each in everything if self._is_here(str(each["machine"]))]
        try:
            if request.method == "POST":
                market.foreign += [
                    (self._account, str(each["machine"]))
                    for each in everything
                    if each not in market.offers and f'"{each["id"]}"'.encode() in (request.body or b"")
                ]
            return await market.send(request)
        finally:
            market.offers = everything

    def _is_here(self, machine: str) -> bool:
        country = PLACES[machine].rpartition(", ")[2]
        named = set(self._market.regions.values()) - {""}
        region = self._market.regions[self._account]
        return country == region if region else country not in named


class RegionalMoon(moon.Moon):
    """The example adapter, for a marketplace that tells places."""

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        async for page in super().search(wanted):
            yield [replace(each, location=PLACES[each.machine_id]) for each in page]


DESCRIPTOR = replace(moon.DESCRIPTOR, connect=RegionalMoon, regional=True)


class RegionalWorld(World):
    """A deployment with accounts of the pretend marketplace only."""

    market_: RegionalStandIn

    def _provider(self, marketplace: Descriptor, number: int, key: str, db: Database | None = None) -> Any:
        account = self.settings.accounts[number - 1]
        return RegionalMoon(
            ProviderSetup(
                account=account.name, key=KEY, region=account.region, base_url="http://moon",
                http=MortalHttp(self.market_.of(account.name), self.life, self.delay, self._hear, self._hear_answer),
                clock=self.books_clock, workers=InlineWorkers(),
                intervals=dict.fromkeys(("search", "create", "list", "get", "destroy"), 0.0),
            )
        )  # fmt: skip

    async def accounts_of(self, place: str) -> set[str]:
        """The accounts with which everything in a country is rented."""
        machines = [name for name, where in PLACES.items() if where.endswith(place)]
        made = await self.reserve(2 * len(machines), location=place, verified_only=False)
        assert {lease.offered.host.rpartition("/")[2] for lease in made.kept} == set(machines)
        return {lease.account for lease in made.kept}


def with_keys(story: Callable[[RegionalWorld], Awaitable[None]], regions: str = "DE,US,") -> None:
    """Run a story with three keys; `regions` is the value of MOON_API_KEY_REGIONS."""
    made = settings_class((DESCRIPTOR,))(
        moon_api_key=",".join([KEY, f"{KEY}-2", f"{KEY}-3"]), moon_api_key_names="berlin,austin,other",
        moon_api_key_regions=regions,
    )  # fmt: skip

    async def run(clock: VirtualClock) -> None:
        world = RegionalWorld(clock, paced=False, accounts=3, seed=7, machines=1)
        world.settings = made
        world.regions = marketplaces.regions_of(made)
        world.market_ = RegionalStandIn({each.name: each.region for each in made.accounts})
        await world.start()
        try:
            await world.sleep(10)
            await story(world)
            assert world.market_.foreign == []
        finally:
            await world.engine.stop()

    run_virtual(run)


def test_each_offer_is_rented_with_the_key_of_its_region_and_the_rest_with_the_key_without_one() -> None:
    async def story(world: RegionalWorld) -> None:
        market = await world.engine.catalog.market(ANY)
        assert {each.machine_id for each in market.select(ANY).offers} == set(PLACES)
        assert await world.accounts_of("DE") == {"berlin"}
        assert await world.accounts_of("US") == {"austin"}
        assert await world.accounts_of("IS") == {"other"}

    with_keys(story)


def test_no_other_key_rents_in_a_region_whose_key_fails() -> None:
    async def story(world: RegionalWorld) -> None:
        for _ in range(OPEN_AFTER):
            world.engine.accounts.circuit((MOON, "berlin")).failed()
        with pytest.raises(FailedPrecondition):
            await world.reserve(2, location="DE", verified_only=False)
        assert world.market_.rented == {}
        assert await world.accounts_of("US") == {"austin"}

    with_keys(story)


def test_a_region_whose_key_sees_nothing_has_no_offers_and_the_others_have_theirs() -> None:
    async def story(world: RegionalWorld) -> None:
        world.market_.down = {"berlin"}
        await world.sleep(2000)  # what was known is too old by now
        market = await world.engine.catalog.market(ANY)
        assert {each.machine_id for each in market.select(ANY).offers} == {"m2", "m3", "m4"}
        assert market.truncated
        with pytest.raises(FailedPrecondition):
            await world.reserve(2, location="DE", verified_only=False)
        assert await world.accounts_of("IS") == {"other"}

    with_keys(story)


def test_without_regions_in_the_settings_every_key_sees_and_rents_the_same() -> None:
    async def story(world: RegionalWorld) -> None:
        assert len(await world.accounts_of("DE")) >= 1
        assert len(world.market_.rented) == 2

    with_keys(story, ",,")

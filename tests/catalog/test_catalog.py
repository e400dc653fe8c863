import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.catalog.refresh import Catalog
from gpuproxy.catalog.search import EVERYTHING
from gpuproxy.model.errors import ProviderError, ProviderUnavailable, RateLimited, Unavailable
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferFilter, ProviderName
from gpuproxy.ports import Capabilities, Inventory
from tests.markets import VAST, nested, offer, random_market
from tests.virtual_time import DAY_ONE, VirtualClock, run_virtual

IONET = ProviderName("io.net")
ANY = OfferFilter(max_price=100)


@dataclass(slots=True)
class Street:
    """A marketplace to search: its offers, its speed, and its faults."""

    clock: VirtualClock
    offers: list[Offer] = field(default_factory=list)
    page: int = 1000
    seconds_per_page: float = 0.0
    fault: ProviderError | None = None
    fault_after_pages: int = 0
    silent: bool = False
    searches: list[tuple[str, OfferFilter]] = field(default_factory=list)


@dataclass(slots=True)
class Account:
    """One account at a street. It can only search, which is all that the catalog needs."""

    street: Street
    name: ProviderName = VAST
    account: str = "first"
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(search_page=64))

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        street = self.street
        street.searches.append((self.account, wanted))
        standing = sorted(street.offers, key=lambda each: each.price(wanted.disk_gb))
        if wanted != EVERYTHING:
            standing = [each for each in standing if not wanted.rejects(each)]
        for number, start in enumerate(range(0, len(standing) + 1, street.page)):
            await street.clock.sleep(street.seconds_per_page)
            if street.silent:
                await asyncio.Event().wait()
            if street.fault is not None and number >= street.fault_after_pages:
                raise street.fault
            yield standing[start : start + street.page]

    async def create(self, *_: Any) -> Any:
        raise AssertionError("the catalog rents nothing")

    async def list(self) -> Inventory:
        raise AssertionError("the catalog looks at no instances")

    get = destroy = spend = create


def catalog_of(clock: VirtualClock, *accounts: Account, **settings: Any) -> Catalog:
    settings.setdefault("encoders", {"name": lambda each: each.id.encode()})
    return Catalog(accounts, clock, **settings)


def at_noon(scene: Callable[[VirtualClock], Awaitable[None]]) -> Callable[[], None]:
    """A test in virtual time."""

    def test() -> None:
        run_virtual(scene)

    test.__name__, test.__qualname__ = scene.__name__, scene.__qualname__
    return test


async def ids(catalog: Catalog, wanted: OfferFilter = ANY) -> list[str]:
    return [each.id for each in (await catalog.market(wanted)).select(wanted).offers]


@at_noon
async def test_a_market_is_what_the_last_search_found(clock: VirtualClock) -> None:
    street = Street(clock, [offer(1), offer(2)])
    catalog = catalog_of(clock, Account(street))
    await catalog.step(VAST)
    assert await ids(catalog) == ["vast-1", "vast-2"]
    street.offers = [offer(2), offer(3)]
    await clock.sleep(10)
    await catalog.step(VAST)
    market = await catalog.market(ANY)
    assert market.select(ANY).encoded("name") == [b"vast-2", b"vast-3"]
    assert (market.as_of, market.unreachable, market.truncated) == (DAY_ONE + timedelta(seconds=10), (), False)


@at_noon
async def test_an_empty_market_is_an_answer(clock: VirtualClock) -> None:
    catalog = catalog_of(clock, Account(Street(clock)))
    await catalog.step(VAST)
    assert await ids(catalog) == []


@at_noon
async def test_callers_during_a_search_share_it(clock: VirtualClock) -> None:
    street = Street(clock, [offer(1)], seconds_per_page=3)
    catalog = catalog_of(clock, Account(street))
    await asyncio.gather(*(catalog.step(VAST) for _ in range(20)))
    assert len(street.searches) == 1
    await catalog.step(VAST)
    assert len(street.searches) == 2


@at_noon
async def test_the_first_question_waits_for_the_first_offers(clock: VirtualClock) -> None:
    catalog = catalog_of(clock, Account(Street(clock, [offer(1)], seconds_per_page=4)))
    background = asyncio.create_task(catalog.run())
    assert await ids(catalog) == ["vast-1"]
    assert clock.monotonic() == 4
    background.cancel()


@at_noon
async def test_without_any_offers_the_market_is_unavailable_and_never_empty(clock: VirtualClock) -> None:
    catalog = catalog_of(clock, Account(Street(clock, silent=True)), first_wait_seconds=10)
    background = asyncio.create_task(catalog.run())
    with pytest.raises(Unavailable, match=r"vast\.ai silent for 10 s"):
        await catalog.market(ANY)
    before = clock.monotonic()
    with pytest.raises(Unavailable):
        await catalog.market(ANY)
    assert clock.monotonic() == before
    background.cancel()


@at_noon
async def test_a_refusing_market_is_unavailable_at_once(clock: VirtualClock) -> None:
    catalog = catalog_of(clock, Account(Street(clock, fault=ProviderUnavailable("down"))))
    await catalog.step(VAST)
    with pytest.raises(Unavailable):
        await catalog.market(ANY)
    assert (clock.monotonic(), catalog.silent(ANY)) == (0, ((VAST, 0),))


@at_noon
async def test_a_dead_provider_hardly_delays_and_never_empties_an_answer(clock: VirtualClock) -> None:
    dead = Account(Street(clock, silent=True), name=IONET)
    catalog = catalog_of(clock, Account(Street(clock, [offer(1)])), dead)
    background = asyncio.create_task(catalog.run())
    assert await ids(catalog) == ["vast-1"]
    assert clock.monotonic() == 1
    await clock.sleep(100)
    before = clock.monotonic()
    market = await catalog.market(ANY)
    assert (clock.monotonic(), market.unreachable) == (before, ((IONET, before),))
    with pytest.raises(Unavailable):
        await catalog.market(replace(ANY, providers=frozenset({IONET})))
    background.cancel()


@at_noon
async def test_the_last_offers_of_an_unanswering_provider_are_used_until_they_are_too_old(
    clock: VirtualClock,
) -> None:
    street = Street(clock, [offer(1)])
    catalog = catalog_of(clock, Account(street), stale_after_seconds=300)
    await catalog.step(VAST)
    street.fault = ProviderUnavailable("down")
    await clock.sleep(299)
    await catalog.step(VAST)
    market = await catalog.market(ANY)
    assert (market.as_of, market.unreachable) == (DAY_ONE, ((VAST, 299),))
    assert market.select(ANY).total == 1
    await clock.sleep(2)
    with pytest.raises(Unavailable, match="silent for 301 s"):
        await catalog.market(ANY)


@at_noon
async def test_offers_that_are_too_old_do_not_show_among_those_of_others(clock: VirtualClock) -> None:
    street, other = Street(clock, [offer(1)]), Street(clock, [offer(2, provider=IONET)])
    catalog = catalog_of(clock, Account(street), Account(other, name=IONET))
    await catalog.step(VAST)
    await clock.sleep(301)
    await catalog.step(IONET)
    assert await ids(catalog) == ["io-2"]
    assert (await catalog.market(ANY)).unreachable == ((VAST, 301),)
    await catalog.step(VAST)
    assert await ids(catalog) == ["io-2", "vast-1"]
    assert (await catalog.market(ANY)).unreachable == ()


@at_noon
async def test_the_age_does_not_follow_a_jump_of_the_wall_clock(clock: VirtualClock) -> None:
    catalog = catalog_of(clock, Account(Street(clock, [offer(1)])))
    await catalog.step(VAST)
    await clock.sleep(10)
    clock.jump(3600)
    assert (await catalog.market(ANY)).as_of == clock.now() - timedelta(seconds=10)


@at_noon
async def test_markets_are_read_again_and_again_and_sooner_after_a_failure(clock: VirtualClock) -> None:
    street = Street(clock, [offer(1)], fault=ProviderUnavailable("down"))
    catalog = catalog_of(clock, Account(street), refresh_seconds=30)
    background = asyncio.create_task(catalog.run())
    await clock.sleep(7)
    assert len(street.searches) == 3  # at 0, 2 and 6
    street.fault = None
    await clock.sleep(8)
    await ids(catalog)
    await clock.sleep(59)
    assert len(street.searches) == 5  # at 14 and 44
    background.cancel()


@at_noon
async def test_a_rate_limit_is_waited_out(clock: VirtualClock) -> None:
    street = Street(clock, fault=RateLimited("too many", retry_after=500))
    background = asyncio.create_task(catalog_of(clock, Account(street)).run())
    await clock.sleep(499)
    assert len(street.searches) == 1
    await clock.sleep(2)
    assert len(street.searches) == 2
    background.cancel()


@at_noon
async def test_accounts_take_turns_and_stand_in_for_each_other(clock: VirtualClock) -> None:
    good, bad = Street(clock, [offer(1)]), Street(clock, fault=ProviderUnavailable("key"))
    catalog = catalog_of(clock, Account(bad, account="a"), Account(good, account="b"), Account(good, account="c"))
    for _ in range(3):
        await catalog.step(VAST)
        assert await ids(catalog) == ["vast-1"]
    assert [account for account, _ in good.searches] == ["b", "c", "b"]
    assert [account for account, _ in bad.searches] == ["a"]


@at_noon
async def test_a_search_that_breaks_off_keeps_its_offers_and_is_marked_truncated(clock: VirtualClock) -> None:
    offers = [offer(number, gpu_price=Micro(number)) for number in range(1, 31)]
    street = Street(clock, offers, page=10, fault=ProviderUnavailable("cut"), fault_after_pages=2)
    catalog = catalog_of(clock, Account(street))
    await catalog.step(VAST)
    market = await catalog.market(ANY)
    assert (market.select(ANY).total, market.truncated, market.unreachable) == (20, True, ())


@at_noon
async def test_a_search_that_breaks_off_renews_what_it_saw_and_keeps_the_rest_as_it_was(clock: VirtualClock) -> None:
    street = Street(clock, [offer(number, gpu_price=Micro(number)) for number in range(1, 31)], page=10)
    catalog = catalog_of(clock, Account(street), stale_after_seconds=300)
    await catalog.step(VAST)
    await clock.sleep(100)
    street.fault, street.fault_after_pages = ProviderUnavailable("cut"), 1
    street.offers[0] = replace(street.offers[0], gpu_price=Micro(0))
    await catalog.step(VAST)
    market = await catalog.market(ANY)
    assert (market.truncated, market.as_of, market.select(ANY).total) == (False, DAY_ONE, 30)
    assert market.select(ANY).offers[0].gpu_price == 0
    await clock.sleep(250)
    await catalog.step(VAST)
    market = await catalog.market(ANY)
    assert (market.truncated, market.as_of, market.select(ANY).total) == (True, clock.now(), 10)


@at_noon
async def test_a_long_first_search_shows_what_it_has_found_so_far(clock: VirtualClock) -> None:
    street = Street(clock, [offer(number) for number in range(1, 31)], page=10, seconds_per_page=6)
    catalog = catalog_of(clock, Account(street))
    background = asyncio.create_task(catalog.run())
    totals = []
    for _ in range(4):
        market = await catalog.market(ANY)
        totals.append((market.select(ANY).total, market.truncated))
        await clock.sleep(6.5)
    assert totals == [(10, True), (20, True), (30, True), (30, False)]
    background.cancel()


@at_noon
async def test_what_is_taken_is_hidden_with_all_that_overlaps_until_a_later_search(clock: VirtualClock) -> None:
    offers = [*nested(iter(range(1, 9)), "m", 2, (1, 2)), offer(20)]
    street = Street(clock, offers, seconds_per_page=5)
    catalog = catalog_of(clock, Account(street))
    await catalog.step(VAST)
    assert len(await ids(catalog)) == 4
    under_way = asyncio.create_task(catalog.step(VAST))
    await clock.sleep(1)
    catalog.taken(offers[0])
    left = [offers[1].id, "vast-20"]
    assert await ids(catalog) == left
    await under_way
    assert await ids(catalog) == left
    await catalog.step(VAST)
    assert len(await ids(catalog)) == 4


@at_noon
async def test_an_offer_that_is_gone_is_hidden_alone(clock: VirtualClock) -> None:
    offers = nested(iter(range(1, 9)), "m", 2, (1, 2))
    catalog = catalog_of(clock, Account(Street(clock, offers)))
    await catalog.step(VAST)
    catalog.gone(offers[0].id)
    catalog.gone(offer(99).id)
    assert sorted(await ids(catalog)) == sorted(each.id for each in offers[1:])


@at_noon
async def test_a_search_for_the_demand_finds_what_the_snapshot_lacks(clock: VirtualClock) -> None:
    cheap = [offer(number, gpu_price=Micro(number)) for number in range(1, 101)]
    dear = [offer(1000 + number, gpu_model="H100 SXM", gpu_price=Micro(2_000_000)) for number in range(40)]
    street = Street(clock, cheap + dear, page=10, fault=ProviderUnavailable("cut"), fault_after_pages=3)
    catalog = catalog_of(clock, Account(street))
    await catalog.step(VAST)
    wanted = replace(ANY, gpu_model="H100")
    assert await ids(catalog, wanted) == []
    await asyncio.gather(*(catalog.targeted(wanted, clock.monotonic() + 20) for _ in range(5)))
    assert len(await ids(catalog, wanted)) == 20  # two pages: enough for any call
    assert len(await ids(catalog)) == 50
    assert len(street.searches) == 2
    assert (await catalog.market(wanted)).truncated


@at_noon
async def test_a_search_for_the_demand_is_not_made_where_all_is_known_or_enough(clock: VirtualClock) -> None:
    street = Street(clock, [offer(number) for number in range(1, 9)])
    catalog = catalog_of(clock, Account(street))
    await catalog.step(VAST)
    await catalog.targeted(replace(ANY, gpu_model="H100"), clock.monotonic() + 20)
    street.offers = [offer(number) for number in range(1, 41)]
    street.page, street.fault, street.fault_after_pages = 20, ProviderUnavailable("cut"), 1
    await clock.sleep(301)
    await catalog.step(VAST)
    assert (await catalog.market(ANY)).truncated
    await catalog.targeted(ANY, clock.monotonic() + 20)
    assert len(street.searches) == 2


@at_noon
async def test_a_search_for_the_demand_that_fails_or_is_late_leaves_the_snapshot(clock: VirtualClock) -> None:
    street = Street(clock, [offer(1), offer(2)], page=1, fault=ProviderUnavailable("cut"), fault_after_pages=1)
    catalog = catalog_of(clock, Account(street))
    await catalog.step(VAST)
    street.fault_after_pages = 0
    await catalog.targeted(replace(ANY, min_vram=1), clock.monotonic() + 20)
    street.silent = True
    await catalog.targeted(replace(ANY, min_vram=2), clock.monotonic() + 3)
    assert clock.monotonic() == 3
    await catalog.targeted(replace(ANY, min_vram=3), clock.monotonic())
    assert await ids(catalog) == ["vast-1"]


@at_noon
async def test_an_unchanged_offer_is_encoded_once(clock: VirtualClock) -> None:
    encoded: list[str] = []

    def encode(each: Offer) -> bytes:
        encoded.append(each.id)
        return each.id.encode()

    street = Street(clock, [offer(1), offer(2)])
    catalog = Catalog([Account(street)], clock, {"name": encode})
    await catalog.step(VAST)
    street.offers = [offer(1), offer(2, gpu_price=Micro(5))]
    await catalog.step(VAST)
    assert sorted(encoded) == ["vast-1", "vast-2", "vast-2"]
    assert await ids(catalog) == ["vast-2", "vast-1"]


@at_noon
async def test_reading_a_big_market_lets_others_work_in_between(clock: VirtualClock) -> None:
    catalog = catalog_of(clock, Account(Street(clock, random_market(1, 2000), page=5000)))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    await catalog.step(VAST)
    assert turns > 60
    beside.cancel()


@at_noon
async def test_readiness_waits_for_the_first_offers_of_any_provider(clock: VirtualClock) -> None:
    catalog = catalog_of(
        clock, Account(Street(clock, silent=True), name=IONET), Account(Street(clock, [offer(1)], seconds_per_page=50))
    )
    background = asyncio.create_task(catalog.run())
    await catalog.first_snapshot()
    assert clock.monotonic() == 50
    background.cancel()

"""The rules about reads and destroys: a missing answer never means absence, and an error is never a result."""

from itertools import pairwise

from gpuproxy.conformance.bench import Bench
from gpuproxy.conformance.subject import Make
from gpuproxy.conformance.verdict import Broken, NotJudged, ended, must_fail, require
from gpuproxy.conformance.wire import FAILURES, OTHER_SCHEMA
from gpuproxy.model.errors import ProviderError
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro

_HAIR = Micro(10)
"""Prices may be rounded on the wire."""
_PAGES = 4
"""The faults are injected into this number of pages of a search, one page at a time."""


async def a_listing_is_everything_of_the_account(make: Make) -> None:
    """A listing has each machine of the account with its label, however many pages it takes."""
    bench = Bench(make)
    await bench.rented(bench.subject.machines_for_pages)
    listed = await ended(bench.provider.list())
    if isinstance(listed, ProviderError):
        raise Broken(f"a listing without a fault ended as {type(listed).__name__}: {listed}")
    labels = {instance.id: instance.label for instance in listed.instances}
    require(labels == dict(bench.subject.machines()), f"{len(labels)} of {len(bench.subject.machines())} are listed")
    require(not listed.unreadable, f"valid rows are reported as unreadable: {listed.unreadable}")


async def a_failed_page_of_a_listing_is_an_error(make: Make) -> None:
    """If any page of a listing fails, the whole listing is an error and never a shorter list."""
    bench = Bench(make)
    for page in range(await _pages_of_a_listing(bench)):
        for spoil in FAILURES:
            bench.wire.spoil(spoil, which=bench.subject.is_page, after=page)
            await must_fail(bench.provider.list(), f"{spoil.value} on page {page + 1}")


async def a_listing_of_another_schema_is_an_error(make: Make) -> None:
    """JSON that is not a page of a listing is an error and never an empty account."""
    bench = Bench(make)
    for page in range(await _pages_of_a_listing(bench)):
        for spoil in OTHER_SCHEMA:
            bench.wire.spoil(spoil, which=bench.subject.is_page, after=page)
            await must_fail(bench.provider.list(), f"{spoil.value} on page {page + 1}")


async def a_listing_without_end_is_an_error(make: Make) -> None:
    """If the marketplace repeats the first page without end, the listing ends with an error."""
    bench = Bench(make)
    if await _pages_of_a_listing(bench) < 2:
        raise NotJudged("a listing of the subject has only one page")
    bench.wire.first_answer_again = True
    await must_fail(bench.provider.list(), "every page is the first one")


async def an_unreadable_row_is_named_and_hides_no_other(make: Make) -> None:
    """An unreadable row is reported in `unreadable`, and every other row is listed."""
    bench = Bench(make)
    if bench.subject.spoil_row is None:
        raise NotJudged("the subject can't make a row unreadable")
    await bench.rented(2)
    bench.subject.spoil_row()
    listed = await ended(bench.provider.list())
    if isinstance(listed, ProviderError):
        raise Broken(f"one unreadable row made the listing an error: {listed}")
    require(listed.unreadable, "the unreadable row is not reported")
    hidden = set(bench.subject.machines()) - {instance.id for instance in listed.instances}
    require(len(hidden) <= 1, f"one unreadable row hides {len(hidden)} machines")


async def a_missing_instance_is_none(make: Make) -> None:
    """`get` returns None for a destroyed machine, and the machine itself if it exists."""
    bench = Bench(make)
    kept, gone = await bench.rented(2)
    await _destroyed(bench, gone)
    found = await ended(bench.provider.get(gone))
    require(found is None, f"get of a destroyed machine returned {found!r}")
    found = await ended(bench.provider.get(kept))
    require(getattr(found, "id", None) == kept, f"get of {kept} returned {found!r}")


async def a_failed_read_of_an_instance_is_an_error(make: Make) -> None:
    """A `get` without a valid answer is an error and never None. None proves that the machine does not exist."""
    bench = Bench(make)
    (instance_id,) = await bench.rented()
    for spoil in (*FAILURES, *OTHER_SCHEMA):
        bench.wire.spoil(spoil)
        await must_fail(bench.provider.get(instance_id), spoil.value)


async def a_destroy_returns_when_accepted_and_says_what_is_gone(make: Make) -> None:
    """The first destroy returns False (accepted). A destroy of a machine that is gone returns True."""
    bench = Bench(make)
    (instance_id,) = await bench.rented()
    first = await ended(bench.provider.destroy(instance_id))
    require(first is False, f"the destroy of an existing machine returned {first!r}, not False")
    await bench.clock.sleep(bench.provider.capabilities.listing_lag_seconds)
    require(instance_id not in bench.subject.machines(), "the machine still exists after its destroy was accepted")
    again = await ended(bench.provider.destroy(instance_id))
    require(again is True, f"the destroy of a machine that is gone returned {again!r}, not True")


async def a_failed_destroy_is_an_error(make: Make) -> None:
    """A destroy without a valid answer is an error, neither True nor False. The machine may still cost money."""
    for spoil in (*FAILURES, *OTHER_SCHEMA):
        bench = Bench(make)
        (instance_id,) = await bench.rented()
        bench.wire.spoil(spoil)
        await must_fail(bench.provider.destroy(instance_id), spoil.value)


async def a_search_shows_the_cheapest_first(make: Make) -> None:
    """Offers are sorted by price per hour with the requested disk, cheapest first, over all pages."""
    bench = Bench(make)
    offers = await bench.all_offers()
    require(offers, "a search without filters returns no offer")
    for earlier, later in pairwise(offers):
        prices = [offer.price(bench.spec.disk_gb) for offer in (earlier, later)]
        require(prices[1] >= prices[0] - _HAIR, f"{later.id} costs less than {earlier.id}, which came before it")


async def a_failed_page_of_a_search_is_an_error(make: Make) -> None:
    """If a page of a search fails, the search raises an error. It does not end as if it were complete."""
    bench = Bench(make)
    for page in range(await _pages_of_a_search(bench)):
        for spoil in FAILURES:
            bench.wire.spoil(spoil, after=page)
            await must_fail(bench.all_offers(), f"{spoil.value} on page {page + 1}")


async def a_search_of_another_schema_is_an_error(make: Make) -> None:
    """JSON that is not a page of a search is an error and never an empty market."""
    bench = Bench(make)
    for page in range(await _pages_of_a_search(bench)):
        for spoil in OTHER_SCHEMA:
            bench.wire.spoil(spoil, after=page)
            await must_fail(bench.all_offers(), f"{spoil.value} on page {page + 1}")


async def _pages_of_a_listing(bench: Bench) -> int:
    """The number of pages of a listing with as many of them as the subject allows."""
    await bench.rented(bench.subject.machines_for_pages)
    await bench.provider.list()
    pages = sum(map(bench.subject.is_page, bench.wire.requests))
    bench.wire.forget()
    return pages


async def _pages_of_a_search(bench: Bench) -> int:
    """The number of requests of a search without filters, at most _PAGES."""
    await bench.all_offers()
    pages = len(bench.wire.requests)
    bench.wire.forget()
    return min(pages, _PAGES)


async def _destroyed(bench: Bench, instance_id: InstanceId) -> None:
    await bench.provider.destroy(instance_id)
    await bench.clock.sleep(bench.provider.capabilities.listing_lag_seconds)

"""One process reads a marketplace and stores its offers; the others see the same, and only what changed is written."""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpuproxy.app.offers import _Inline
from gpuproxy.catalog.shared import SharedCatalog
from gpuproxy.catalog.snapshot import Entry
from gpuproxy.catalog.source import Batch
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferId
from gpuproxy.runtime.claims import Claims
from tests import databases
from tests.markets import VAST, offer
from tests.mortal import Life, MortalDatabase
from tests.virtual_time import VirtualClock, run_virtual

Offers = Mapping[OfferId, Entry]


def offers_of(numbers: range) -> dict[OfferId, Entry]:
    return {each.id: entry(each) for each in (offer(number) for number in numbers)}


def entry(one: Offer) -> Entry:
    return one, {"proto": f"{one.id} {one.gpu_price}".encode()}


def changed(one: Entry) -> Entry:
    return entry(replace(one[0], gpu_price=Micro(one[0].gpu_price + 1)))


@dataclass
class Two:
    """Two processes with one database: `reader` reads the marketplace."""

    db: Any
    clock: VirtualClock
    reader: SharedCatalog
    other: SharedCatalog
    search: int = 0
    seen: int = 0

    async def tells(self, offers: Offers) -> set[str]:
        """Store the result of a search. Returns the names of the rows that were written for it."""
        before = self._versions()
        self.search += 1
        now = self.clock.monotonic()
        batch = Batch(self.search, now, now, offers, whole=True)
        await self.reader.tell(VAST, batch, failures=0, refused=False, ended=True)
        after = self._versions()
        return {name for name in before | after if before.get(name) != after.get(name)}

    async def sees(self) -> Offers | None:
        """The offers that the other process learns; None: there is no later search."""
        shown = await self.other.shown(VAST, self.seen)
        if shown is None or shown.batch is None:
            return None
        self.seen = shown.version
        return shown.batch.entries

    def _versions(self) -> dict[str, int]:
        return dict(databases.rows(self.db, "SELECT name, version FROM shared"))  # type: ignore[arg-type]


def with_two(story: Callable[[Two], Awaitable[None]]) -> None:
    async def run(clock: VirtualClock) -> None:
        db = databases.opened(clock.now)
        made = []
        for name in ("a", "b"):
            seen = MortalDatabase(db, Life(), lambda: 0.0, lambda: None, exclusive=False)
            claim = Claims(seen, clock, name, 10**6).of_catalog(VAST)
            await seen.write(claim.take)
            made.append(SharedCatalog(seen, clock, claims={VAST: claim}, workers=_Inline(), kinds=frozenset({"proto"})))
        await story(Two(db, clock, *made))

    run_virtual(run)


def test_another_process_sees_exactly_the_offers_of_each_search() -> None:
    async def story(two: Two) -> None:
        dice = random.Random(1)
        for size in (0, 5, 3000, 2900, 3100, 40, 39, 8000, 0, 300):
            offers = offers_of(range(dice.randrange(100), 100 + size))
            for each in dice.sample(sorted(offers), min(size, 20)):
                offers[each] = changed(offers[each])
            await two.tells(offers)
            assert await two.sees() == offers
            assert await two.sees() is None

    with_two(story)


def test_a_search_that_found_the_same_writes_no_offers() -> None:
    async def story(two: Two) -> None:
        offers = offers_of(range(3000))
        assert len(await two.tells(offers)) == 31
        assert await two.sees() == offers
        again = dict(reversed(offers.items()))  # a marketplace gives no order
        assert await two.tells(again) == {"catalog:vast.ai"}
        assert await two.sees() == offers

    with_two(story)


def test_what_changes_is_written_with_its_neighbours_only() -> None:
    async def story(two: Two) -> None:
        offers = offers_of(range(3000))
        await two.tells(offers)
        one, gone, new = list(offers)[7], list(offers)[100], offer(9000)
        assert len(await two.tells(offers | {one: changed(offers[one])})) == 2
        offers = await two.sees()  # type: ignore[assignment]
        left = {key: value for key, value in offers.items() if key != gone}
        assert len(await two.tells(left)) == 2
        assert len(await two.tells(left | {new.id: entry(new)})) == 2
        assert await two.sees() == left | {new.id: entry(new)}

    with_two(story)


def test_a_process_that_takes_over_the_reading_writes_what_changed_and_not_more() -> None:
    async def story(two: Two) -> None:
        offers = offers_of(range(3000))
        await two.tells(offers)
        claim = two.other._claims[VAST]
        await two.db.write(lambda tx: tx.execute("UPDATE claims SET until = 0"))
        assert await two.db.write(claim.take)
        two.reader, two.other = two.other, two.reader
        one = list(offers)[7]
        offers[one] = changed(offers[one])
        assert len(await two.tells(offers)) == 2
        assert await two.sees() == offers

    with_two(story)


def test_rows_of_another_version_are_replaced_and_not_read() -> None:
    async def story(two: Two) -> None:
        offers = offers_of(range(500))
        await two.tells(offers)
        await two.db.write(lambda tx: tx.execute("""UPDATE shared SET head = '{"format": "1:"}', version = 9"""))
        assert await two.sees() is None
        assert two.other.reads(VAST)
        assert len(await two.tells(offers)) == 6
        assert await two.sees() == offers
        assert not two.other.reads(VAST)

    with_two(story)

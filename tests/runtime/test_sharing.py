"""Who does which part of the lasting work: a rule of pure functions, and claims that are believed for a while."""

import asyncio
from collections import Counter
from datetime import timedelta
from itertools import pairwise, product

import pytest

from gpuproxy.model.errors import ClaimLost, Unavailable
from gpuproxy.ports import Database, Tx
from gpuproxy.runtime.claims import CLAIM_SECONDS, ClaimedDatabase, Claims, alone
from gpuproxy.runtime.sharing import Sharing, Work, assigned
from gpuproxy.store import claims, meta
from tests import databases
from tests.mortal import Life, MortalDatabase
from tests.virtual_time import VirtualClock, run_virtual

ACCOUNTS = [f"account:{number}" for number in range(7)]
WORKS = [*ACCOUNTS, "catalog:vast.ai", "work:ledger", "work:holds", "work:history"]


@pytest.mark.parametrize(("processes", "works"), list(product((1, 2, 3, 5, 20), (WORKS, ACCOUNTS[:1], ACCOUNTS[:4]))))
def test_no_process_has_more_than_its_share_of_accounts(processes: int, works: list[str]) -> None:
    live = [f"p{number}" for number in range(processes)]
    found = assigned(works, {}, live)
    assert set(found) == set(works)
    accounts = Counter(owner for work, owner in found.items() if work.startswith("account:"))
    assert max(accounts.values()) <= -(-sum(work in ACCOUNTS for work in works) // processes)


def test_work_stays_where_it_is_as_long_as_nobody_has_too_much() -> None:
    before = assigned(WORKS, {}, ["a", "b"])
    assert assigned(WORKS, before, ["b", "a"]) == before


def test_a_process_that_joins_gets_a_share_and_no_other_account_moves() -> None:
    before = assigned(WORKS, {}, ["a", "b"])
    after = assigned(WORKS, before, ["a", "b", "c"])
    moved = {work for work in ACCOUNTS if after[work] != before[work]}
    assert {after[work] for work in moved} == {"c"}
    assert len(moved) >= 1


def test_the_work_of_a_dead_process_goes_to_those_that_live() -> None:
    after = assigned(WORKS, dict.fromkeys(WORKS, "dead"), ["a", "b"])
    assert set(after.values()) == {"a", "b"}


class _Process:
    def __init__(self, db: Database, clock: VirtualClock, name: str, works: list[str]) -> None:
        self.life = Life()
        self.db = MortalDatabase(db, self.life, lambda: 0.0, lambda: None, exclusive=False)
        made = Claims(self.db, clock, name)
        self.claims = {work: made.of_work(work) for work in works}
        self.clock = clock
        self.failing_since: float | None = None
        """Since when its work fails, while it has the work: a reading of Clock.monotonic()."""
        works_ = [Work(claim, failing=self._failing) for claim in self.claims.values()]
        self.sharing = Sharing(made, works_, self.db, clock)

    def _failing(self) -> float:
        return 0.0 if self.failing_since is None else self.clock.monotonic() - self.failing_since

    def held(self) -> set[str]:
        return {work for work, claim in self.claims.items() if claim.is_held()}


def _database(clock: VirtualClock) -> Database:
    return databases.opened(clock.now)


def test_a_process_that_cannot_reach_the_database_stops_believing_before_its_claim_is_over() -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        process = _Process(db, clock, "a", ["ledger"])
        await process.sharing.step()
        process.life.books_gone = True
        while process.held():
            await clock.sleep(0.5)
        assert await db.read(lambda tx: claims.owner_of(tx, "work:ledger")) == "a"
        await clock.sleep(CLAIM_SECONDS / 3)
        assert await db.read(lambda tx: claims.owner_of(tx, "work:ledger")) == ""

    run_virtual(story)


def test_the_time_of_an_attempt_counts_from_its_beginning() -> None:
    async def story(clock: VirtualClock) -> None:
        process = _Process(_database(clock), clock, "a", ["ledger"])
        process.db._delay = lambda: CLAIM_SECONDS  # the answer takes as long as the claim lasts
        await process.sharing.step()
        assert not process.held()

    run_virtual(story)


@pytest.mark.parametrize(("seconds", "held"), [(4.0, True), (6.0, False)])
def test_the_time_of_a_call_counts_from_before_its_unit_of_work(seconds: float, held: bool) -> None:
    """The unit may read its time first and go on after a pause."""

    async def story(clock: VirtualClock) -> None:
        process = _Process(_database(clock), clock, "a", [])
        claim = Claims(process.db, clock, "a").of_reservation("res-1")
        process.db._delay = lambda: seconds  # before the unit, and again until it is answered
        await process.db.write(lambda tx: claim.take(tx, claim.made_at))
        assert claim.is_held() is held
        process.db._delay = lambda: 0.0
        await claim._kept(lambda: None)
        assert claim.is_held()
        process.db._delay = lambda: seconds
        await clock.sleep(CLAIM_SECONDS)
        await claim._kept(lambda: None)
        assert claim.is_held() is held

    run_virtual(story)


def test_a_write_with_an_old_fence_changes_nothing() -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        first, second = (_Process(db, clock, name, ["ledger"]) for name in ("a", "b"))
        await first.sharing.step()
        old = first.claims["ledger"].claim
        assert old is not None
        await clock.sleep(CLAIM_SECONDS + 1)
        await second.sharing.step()
        await second.sharing.leave()
        await first.sharing.step()
        now = first.claims["ledger"].claim
        assert now is not None
        assert now.fence > old.fence + 1
        with pytest.raises(ClaimLost):
            await db.write(lambda tx: (claims.require(tx, old), meta.write(tx, "a", "stale")))
        assert await db.read(lambda tx: meta.read(tx, "a")) is None

    run_virtual(story)


def test_a_process_stops_believing_in_a_claim_before_it_has_given_it_up() -> None:
    """After the commit another process may begin at once, and the answer to the commit may take long."""

    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        first, second = (_Process(db, clock, name, ["one", "two", "three", "four"]) for name in ("a", "b"))
        await first.sharing.step()
        assert len(first.held()) == 4
        await second.sharing.step()
        given_up = []

        def before_the_commit(tx: Tx, _place: int) -> None:
            free = {name for name in first.claims if claims.is_free(tx, f"work:{name}")}
            assert not free & first.held()
            given_up.extend(free)

        first.sharing.exchange(before_the_commit)
        await first.sharing.step()
        assert len(given_up) == 2
        await second.sharing.step()
        assert (len(first.held()), len(second.held())) == (2, 2)

    run_virtual(story)


def test_work_of_a_process_without_the_claim_writes_nothing() -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        first, second = (_Process(db, clock, name, ["ledger"]) for name in ("a", "b"))
        await first.sharing.step()
        mine = ClaimedDatabase(first.db, first.claims["ledger"])
        await mine.write(lambda tx: meta.write(tx, "a", "first"))
        with pytest.raises(ClaimLost):
            await ClaimedDatabase(second.db, second.claims["ledger"]).write(lambda tx: meta.write(tx, "a", "second"))
        assert await db.read(lambda tx: meta.read(tx, "a")) == "first"

    run_virtual(story)


def test_work_that_nobody_else_is_set_up_for_comes_back_and_stays() -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        first = _Process(db, clock, "a", ["one", "two", "three"])
        second = _Process(db, clock, "b", [])
        changes = []
        for _ in range(100):
            await first.sharing.step()
            await second.sharing.step()
            changes.append(frozenset(first.held()))
            await clock.sleep(CLAIM_SECONDS / 3)
        assert changes[-1] == {"one", "two", "three"}
        assert len([1 for a, b in pairwise(changes) if a != b]) <= 6

    run_virtual(story)


def test_busy_work_stays_until_it_is_not_busy_any_more() -> None:
    async def story(clock: VirtualClock) -> None:
        db, busy = _database(clock), True
        first = _Process(db, clock, "a", ["one", "two"])
        first.sharing.works = tuple(Work(work.claim, is_busy=lambda: busy) for work in first.sharing.works)
        second = _Process(db, clock, "b", ["one", "two"])
        for _ in range(4):
            await first.sharing.step()
            await second.sharing.step()
            await clock.sleep(1)
        assert first.held() == {"one", "two"}
        busy = False
        await first.sharing.step()
        await second.sharing.step()
        assert len(first.held()) == len(second.held()) == 1

    run_virtual(story)


def test_a_process_that_lost_one_claim_keeps_the_others_and_takes_more() -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        works = ["account:1", "account:2"]
        first, second = (_Process(db, clock, name, works) for name in ("a", "b"))
        await first.sharing.step()
        assert first.held() == set(works)
        taken = next(iter(second.claims.values()))
        await clock.sleep(CLAIM_SECONDS + 1)
        await db.write(taken.take)
        for _ in range(3):
            await first.sharing.step()
        assert first.held() == set(works) - {"account:1"}
        await clock.sleep(CLAIM_SECONDS + 1)
        for _ in range(3):
            await first.sharing.step()
        assert first.held() == set(works)

    run_virtual(story)


@pytest.mark.parametrize("seconds", [0.5, 2.5])
def test_a_database_that_is_away_for_a_moment_costs_no_claim(seconds: float) -> None:
    async def story(clock: VirtualClock) -> None:
        process = _Process(_database(clock), clock, "a", ["ledger"])
        running = asyncio.create_task(process.sharing.run())
        call = process.claims["ledger"]
        await clock.sleep(CLAIM_SECONDS / 3 - 0.1)
        keeping = asyncio.create_task(call.keep(lambda: None))
        process.life.books_gone = True
        await clock.sleep(seconds)
        process.life.books_gone = False
        for _ in range(100):
            assert process.held() == {"ledger"}
            await clock.sleep(0.25)
        for task in (running, keeping):
            task.cancel()

    run_virtual(story)


def test_a_commit_whose_answer_was_lost_leaves_one_owner() -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        first, second = (_Process(db, clock, name, ["ledger"]) for name in ("a", "b"))
        first.life.loses_answers = lambda: True
        with pytest.raises(Unavailable):
            await first.sharing.step()
        assert not first.held()
        await second.sharing.step()
        assert not second.held()
        first.life.loses_answers = lambda: False
        await first.sharing.step()
        assert first.held() == {"ledger"}

    run_virtual(story)


@pytest.mark.parametrize("regained", [False, True])
def test_a_step_that_began_under_an_earlier_claim_writes_nothing(regained: bool) -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        process = _Process(db, clock, "a", ["ledger"])
        await process.sharing.step()
        claim = process.claims["ledger"]
        mine = ClaimedDatabase(process.db, claim)

        async def step() -> None:
            if regained:  # another process has had the claim during the call to the marketplace
                await db.write(lambda tx: tx.execute("UPDATE claims SET fence = fence + 1 WHERE name = 'work:ledger'"))
                await process.sharing.step()
                await process.sharing.step()
            assert claim.is_held()
            await mine.write(lambda tx: meta.write(tx, "a", "written"))

        await alone(claim, step)()
        assert await db.read(lambda tx: meta.read(tx, "a")) == (None if regained else "written")
        assert claim.is_held(), "the claim is this process's"
        await alone(claim, lambda: mine.write(lambda tx: meta.write(tx, "a", "next")))()
        assert await db.read(lambda tx: meta.read(tx, "a")) == "next"

    run_virtual(story)


@databases.sqlite_only
def test_the_claims_of_one_process_alone_have_no_end() -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        made = Claims(db, clock, "a")
        claim = made.of_work("ledger")
        await db.write(claim.take)
        await clock.sleep(timedelta(days=30).total_seconds())
        assert claim.is_held()
        await asyncio.wait_for(Sharing(made, [Work(claim)], db, clock).run(), 1)

    run_virtual(story)

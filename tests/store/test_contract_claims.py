"""The contract of claims: at any time at most one process has one. Each store of `stores` must pass it."""

import asyncio
from collections.abc import Callable

import pytest

from gpuproxy.model.errors import ClaimLost
from gpuproxy.ports import Database, Tx
from gpuproxy.store import claims, meta
from gpuproxy.store.claims import Claim
from tests.store.stores import Store

NAME = "account:p:a"


def taking(owner: str, seconds: float | None = 30.0) -> Callable[[Tx], Claim | None]:
    return lambda tx: claims.take(tx, NAME, owner, seconds)


async def took(db: Database, owner: str, seconds: float | None = 30.0) -> Claim:
    claim = await db.write(taking(owner, seconds))
    assert claim is not None
    return claim


async def holds(db: Database, claim: Claim) -> bool:
    try:
        await db.read(lambda tx: claims.require(tx, claim))
    except ClaimLost:
        return False
    return True


async def test_one_of_many_processes_gets_a_claim_and_the_others_do_not(db: Database):
    taken = await asyncio.gather(*(db.write(taking(f"p{n}")) for n in range(50)))
    [claim] = [each for each in taken if each is not None]
    assert claim.fence == 1
    assert await holds(db, claim)
    assert await db.read(lambda tx: claims.owner_of(tx, NAME)) == claim.owner


async def test_a_claim_ends_by_the_databases_time_and_not_before(store: Store, db: Database):
    claim = await took(db, "a")
    store.clock.advance(29.999999)
    assert await db.write(taking("b")) is None
    assert await holds(db, claim)
    store.clock.advance(0.000001)
    assert await db.read(lambda tx: claims.is_free(tx, NAME))
    assert not await holds(db, claim)
    assert (await took(db, "b")).fence == 2


async def test_a_claim_that_was_taken_over_is_lost_for_ever_also_for_the_same_process(store: Store, db: Database):
    first = await took(db, "a")
    store.clock.advance(31)
    await took(db, "b")
    store.clock.advance(31)
    again = await took(db, "a")
    assert (first.fence, again.fence) == (1, 3)
    assert not await holds(db, first)
    assert await holds(db, again)
    with pytest.raises(ClaimLost):
        await db.write(lambda tx: claims.renew(tx, first, 30))
    await db.write(lambda tx: claims.drop(tx, first))
    assert await holds(db, again)


async def test_a_renewed_claim_lasts_longer_even_if_it_was_over_as_long_as_nobody_took_it(store: Store, db: Database):
    claim = await took(db, "a")
    store.clock.advance(40)
    assert not await holds(db, claim)
    renewed = await db.write(lambda tx: claims.renew(tx, claim, 30))
    assert renewed.fence == claim.fence
    store.clock.advance(29)
    assert await holds(db, claim)
    assert (await took(db, "a")).fence == 1


async def test_a_dropped_claim_is_free_at_once_and_its_fence_goes_on(db: Database):
    claim = await took(db, "a")
    await db.write(lambda tx: claims.drop(tx, claim))
    assert not await holds(db, claim)
    assert (await took(db, "b")).fence == 2


async def test_a_claim_without_an_end_is_void_only_when_it_is_made_so(store: Store, db: Database):
    claim = await took(db, "a", None)
    store.clock.advance(10 * 365 * 86_400)
    assert await holds(db, claim)
    assert await db.write(taking("b")) is None
    await db.write(claims.void)
    assert not await holds(db, claim)
    assert (await took(db, "b")).fence == 2


async def test_a_forgotten_claim_is_lost_and_never_blocks(db: Database):
    claim = await took(db, "a")
    await db.write(lambda tx: claims.forget(tx, NAME))
    assert not await holds(db, claim)
    assert await db.read(lambda tx: claims.owner_of(tx, NAME)) == ""
    with pytest.raises(ClaimLost):
        await db.write(lambda tx: claims.renew(tx, claim, 30))


async def test_claims_that_are_over_are_swept_by_their_prefix_and_others_are_not(store: Store, db: Database):
    await db.write(lambda tx: claims.take(tx, "call:over", "a", 10))
    await db.write(lambda tx: claims.take(tx, "account:over", "a", 10))
    await db.write(lambda tx: claims.take(tx, "call:held", "a", 20))
    store.clock.advance(10)
    await db.write(lambda tx: claims.sweep(tx, "call:"))
    left = await db.read(lambda tx: tx.fetch("SELECT name FROM claims ORDER BY name"))
    assert [row["name"] for row in left] == ["account:over", "call:held"]


async def test_work_that_checks_its_claim_is_done_by_one_process_at_a_time(store: Store, db: Database):
    """Many processes take the claim whenever it is free. What one writes under it, no older owner writes after it."""
    seen: list[int] = []

    async def process(owner: str) -> None:
        claim: Claim | None = None
        for _ in range(30):
            await asyncio.sleep(0)
            claim = claim or await db.write(taking(owner, 1.0))
            if claim is None:
                store.clock.advance(0.1)
                continue
            held = claim

            def work(tx: Tx, held: Claim = held) -> None:
                claims.require(tx, held)
                meta.write(tx, "fence", str(held.fence))
                tx.after_commit(lambda: seen.append(held.fence))

            try:
                await db.write(work)
            except ClaimLost:
                claim = None

    await asyncio.gather(*(process(f"p{n}") for n in range(10)))
    assert seen == sorted(seen)
    assert len(set(seen)) > 5

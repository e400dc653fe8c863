"""PostgreSQL's errors as those of the port, and what a unit is told of them."""

from collections.abc import Callable

import pytest

from gpuproxy.model.errors import Busy, DiskFull, ReadOnly, StatementRefused, Unavailable
from gpuproxy.ports import Tx
from gpuproxy.store import meta
from gpuproxy.store.postgres.database import PostgresDatabase
from tests import postgres


def failing(state: str, runs: list[str], times: int = 1) -> Callable[[Tx], str | None]:
    """A unit whose first runs meet an error with this SQLSTATE."""

    def unit(tx: Tx) -> str | None:
        runs.append("run")
        meta.write(tx, "n", str(len(runs)))
        if len(runs) <= times:
            tx.execute(f"DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{state}'; END $$")
        return meta.read(tx, "n")

    return unit


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_serialization_failures_and_deadlocks_run_the_unit_again(state: str):
    db, runs = postgres.opened(postgres.fresh()), []
    assert await db.write(failing(state, runs)) == "2"
    assert len(runs) == 2


async def test_a_conflict_that_does_not_end_is_unavailable_and_nothing_is_written():
    db, runs = postgres.opened(postgres.fresh()), []
    with pytest.raises(Unavailable):
        await db.write(failing("40001", runs, times=100))
    assert 1 < len(runs) < 10
    assert await db.read(lambda tx: meta.read(tx, "n")) is None


@pytest.mark.parametrize(
    ("state", "error"),
    [("55P03", Busy), ("57014", Busy), ("25006", ReadOnly), ("53100", DiskFull), ("57P03", Unavailable)],
)
async def test_an_error_of_the_database_is_not_repeated_and_says_why(state: str, error: type[Unavailable]):
    db, runs = postgres.opened(postgres.fresh()), []
    with pytest.raises(Unavailable, match="Repeat the call later") as found:
        await db.write(failing(state, runs))
    assert (type(found.value), len(runs)) == (error, 1)


async def test_after_a_full_disk_nothing_is_rented_for_a_while_and_releases_go_on():
    db, runs = postgres.opened(postgres.fresh()), []
    await db.write(lambda tx: tx.before_spending())
    with pytest.raises(DiskFull):
        await db.write(failing("53100", runs))
    with pytest.raises(DiskFull):
        await db.write(lambda tx: tx.before_spending())
    await db.write(lambda tx: meta.write(tx, "released", "1"))


async def test_texts_and_numbers_are_stored_that_the_database_has_no_place_for():
    db = postgres.opened(postgres.fresh())

    def unit(tx: Tx) -> list[object]:
        meta.write(tx, "odd", "a\x00b'\\%s?")
        tx.execute("INSERT INTO quotas (project, gpus, rate) VALUES ('p', ?, ?)", (True, 2**62))
        query = "SELECT gpus, sum(rate) AS rate, gpus = 1 AS flag, 0.5 * gpus AS part FROM quotas GROUP BY gpus"
        [row] = tx.fetch(query)
        return [meta.read(tx, "odd"), *row.values()]

    found = await db.write(unit)
    assert found == ["a�b'\\%s?", 1, 2**62, 1, 0.5]
    assert [type(each) for each in found] == [str, int, int, int, float]


async def test_a_server_that_can_not_be_reached_is_unavailable():
    with pytest.raises(Unavailable):
        PostgresDatabase("postgresql://tester@127.0.0.1:1/none", "nobody", threads=False)


async def test_a_statement_that_is_refused_keeps_the_connection():
    db = postgres.opened(postgres.fresh())
    for _ in range(3):
        with pytest.raises(StatementRefused):
            await db.write(lambda tx: tx.execute("SELEC 1"))
        with pytest.raises(StatementRefused):
            await db.read(lambda tx: tx.fetch("SELECT x FROM meta"))
    before = db._writer._connection
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    assert db._writer._connection is before

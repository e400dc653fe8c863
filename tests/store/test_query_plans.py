"""No statement of the running service reads a table from end to end that grows with the history.

A story runs all that the service does; each statement that it sent to the database is then explained by SQLite.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.app import deployment, figures
from gpuproxy.model.demands import Caller
from gpuproxy.store import counters, leases
from gpuproxy.store.sqlite.database import SqliteTx
from tests import databases
from tests.world import VAST, World, in_world

pytestmark = databases.sqlite_only

GROWS = frozenset({
    "reservations", "leases", "events", "meters", "settlements", "ledger", "forgotten_reservations",
    "bookings", "forgotten_leases", "ledger_leases",
})  # fmt: skip
BOUNDED = frozenset({"leases_live", "meters_open", "reservations_unsettled", "holds_lease", "bookings_open"})
"""Indexes that hold only what is live. They may be read from end to end."""
NARROW = {
    "leases_newest": "provider=? AND created_at>?",
    "leases_charge_due": "provider=? AND account=? AND ended_at>?",
    "meters_newest": "closed_at>?",
    "bookings_newest": "decided_at>?",
    "bookings_decided": "decided_at>?",
    "leases_prepaid_ended": "provider=? AND account=? AND ended_at>?",
    "reservations_of_all_in_state": "state=? AND created_at>?",
}
"""Indexes that are narrow only with these conditions."""
PAGES = frozenset({"meters_newest", "meters_of_project", "settlements_newest", "settlements_of_project"}) | frozenset({
    "bookings_newest", "bookings_of_project",
    "reservations_newest", "reservations_of_all", "reservations_in_state", "reservations_of_all_in_state",
})  # fmt: skip
"""Indexes in the order of a list. They are read from the place of a page on, and no further than the page is long."""
_ALIAS = re.compile(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+(\w+)(?:\s+(?:AS\s+)?(?!WHERE|CROSS|JOIN|SET|ORDER|ON|LEFT)(\w+))?")
_STEP = re.compile(r"(SCAN|SEARCH) (\w+)(?: USING (?:(?:COVERING )?INDEX (\w+)|INTEGER PRIMARY KEY))?(?: \((.*)\))?")
Statements = dict[str, Sequence[Any]]


def reads_too_much(sql: str, plan: Sequence[Mapping[str, Any]]) -> list[str]:
    """The steps of a plan that read more of a growing table than the statement needs."""
    names = {alias or table: table for table, alias in _ALIAS.findall(sql)} | {table: table for table in GROWS}
    sorts = any("TEMP B-TREE" in row["detail"] for row in plan)
    wrong = []
    for row in plan:
        if (found := _STEP.match(row["detail"])) is None or names.get(found[2], found[2]) not in GROWS:
            continue
        how, _, index, condition = found.groups()
        one_row = "LIMIT 1" in sql and "ORDER BY seq DESC" in sql
        in_order = index in PAGES and "LIMIT ?" in sql and not sorts
        narrow = NARROW.get(index or "")
        searched = how == "SEARCH" and (condition or "").startswith(narrow or "") and index not in PAGES - set(NARROW)
        if not (index in BOUNDED or one_row or in_order or searched or "SELECT 1 AS one" in sql):
            wrong.append(row["detail"])
    return wrong


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    """Every statement that was sent to a database, with the values of its last execution."""
    sent: Statements = {}
    for name in ("fetch", "execute"):
        plain = getattr(SqliteTx, name)

        def recorded(tx: SqliteTx, sql: str, params: Sequence[Any] = (), plain: Any = plain) -> Any:
            sent[sql] = params
            return plain(tx, sql, params)

        monkeypatch.setattr(SqliteTx, name, recorded)
    return sent


async def age(world: World, by: timedelta) -> None:
    """All reservations were so much earlier. The loads of the hosts, which follow from the events, stay as they are."""
    await world.db.write(counters.recount)
    for table, columns in AGING.items():
        moved = ", ".join(f"{column} = {column} - {by // timedelta(microseconds=1)}" for column in columns)
        databases.rows(world.db, f"UPDATE {table} SET {moved}")  # noqa: S608


AGING = {
    "reservations": ("created_at", "settled_at", "answered_at"),
    "leases": ("created_at", "ended_at"),
    "events": ("at",),
}


async def everything(world: World) -> None:
    """A life of the service: rent, look, list, release, settle, expire, restart, and keep only some history."""
    engine, caller, admin = world.engine, Caller(project="p1"), Caller(project="p1", role="admin")
    made = await world.reserve(2, request_id="a")
    world.arm("create", "reset_after")
    await world.reserve(1, request_id="b", lease=3600)
    await world.sleep(600)
    for who in (caller, admin):
        for state in ("", "active"):
            first = await engine.reservations.page(who, state=state, labels={}, page_size=1, page_token="")
            after = first.next_page_token
            await engine.reservations.page(who, state=state, labels={}, page_size=1, page_token=after)
        await engine.spending.transactions(who, 50, 0)
        await engine.instances.rented(who)
        await engine.load.report(who, "")
    await engine.health.summary()
    await figures.read(world.db, engine.watches, world.clock)
    await engine.instances.destroy(caller, VAST, str(made.leases[0].instance_id))  # type: ignore[arg-type]
    await engine.reservations.release(caller, made.reservation.id)
    await world.sleep(3 * 3600)
    await engine.true_ups[0].step()
    await engine.billing_checks[0].step()
    await age(world, timedelta(days=30))
    await engine.history.step()
    await deployment.steady_clock(world.db, world.clock)
    await world.restart()
    await world.reserve(1, request_id="a2")


def explained(world: World, statements: Statements) -> dict[str, list[str]]:
    connection, found = world.db._writer, {}
    for sql, params in statements.items():
        if sql.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
            cursor = connection.execute(f"EXPLAIN QUERY PLAN {sql}", params)
            if wrong := reads_too_much(sql, [{"detail": row[3]} for row in cursor]):
                found[sql] = wrong
    return found


def test_no_statement_reads_the_whole_history(statements: Statements):
    async def story(world: World) -> None:
        await everything(world)
        assert len(statements) > 80
        assert any("forgotten_leases" in sql and sql.startswith("INSERT") for sql in statements), "history was deleted"
        assert explained(world, statements) == {}

    in_world(story, settings={"keep_history": 20 * 86_400.0, "reconcile_interval": 240.0})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM leases WHERE provider = ? AND account = ? AND state IN ('active') ORDER BY created_at, id",
        "SELECT provider, state, count(*) FROM leases GROUP BY provider, state",
        "SELECT opened_at, closed_at, rate FROM meters",
        "SELECT id FROM reservations WHERE (? IS NULL OR project = ?) ORDER BY created_at DESC, id",
        "SELECT m.rate FROM meters m JOIN leases l ON l.id = m.lease_id WHERE ? IS NULL OR l.project = ?",
        "SELECT id FROM reservations WHERE project = ? ORDER BY created_at, message LIMIT ?",
        "SELECT e.at FROM events e JOIN leases l ON l.id = e.lease_id WHERE e.event = ? ORDER BY e.seq",
    ],
)
def test_a_statement_that_reads_the_whole_history_is_noticed(sql: str):
    async def story(world: World) -> None:
        assert explained(world, {sql: [None] * sql.count("?")}) != {}

    in_world(story)


@pytest.mark.parametrize("read", [leases.last_event_at, leases.live_accounts, counters.loads])
def test_what_is_read_while_nothing_is_rented_is_in_an_index(statements: Statements, read: Any):
    async def story(world: World) -> None:
        statements.clear()
        await world.db.read(read)
        assert statements
        assert explained(world, statements) == {}

    in_world(story)

"""Both databases have the same schema: tables, columns, keys, checks, indexes, and triggers with the same effects."""

import re
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from gpuproxy.model.errors import StatementRefused, Taken
from gpuproxy.ports import Database, Tx
from gpuproxy.store.postgres import migrations, schema
from gpuproxy.store.postgres.connecting import UnusableServer, require_durable
from gpuproxy.store.postgres.database import PostgresDatabase
from gpuproxy.store.sqlite.database import SqliteDatabase
from tests import postgres
from tests.store.postgres.stories import SHOWN, STORIES

OWN = {"writers", "changes", migrations.TABLE}
KINDS = {"INTEGER": "bigint", "TEXT": "text", "REAL": "double precision"}


@pytest.fixture
def sqlite() -> Any:
    return SqliteDatabase(":memory:", lambda: datetime.now(UTC), threads=False)._writer.conn


@pytest.fixture
def pg() -> Any:
    with psycopg.connect(postgres.fresh(), autocommit=True) as connection:
        yield connection


def tables(sqlite: Any) -> list[str]:
    rows = sqlite.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return sorted(name for (name,) in rows if "sqlite" not in name)


def test_the_tables_are_the_same(sqlite: Any, pg: Any):
    found = {name for (name,) in pg.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200")}
    assert found - OWN == set(tables(sqlite))
    assert {words.split()[2] for words in schema.OWN} | {migrations.TABLE} == OWN


def test_the_columns_are_the_same_with_their_types_nullability_defaults_and_order(sqlite: Any, pg: Any):
    for table in tables(sqlite):
        wanted = [
            (name, KINDS[kind], bool(required or key), None if default is None else default.strip("'"))
            for _, name, kind, required, default, key in sqlite.execute(f"PRAGMA table_info({table})")
        ]
        found = [
            (name, kind, nullable == "NO", None if default is None else re.sub(r"::\w+$", "", default).strip("'"))
            for name, kind, nullable, default in pg.execute(
                "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns "
                "WHERE table_name = %s AND table_schema = 'public' ORDER BY ordinal_position",
                (table,),
            )
        ]
        assert found == wanted, table


def test_texts_are_ordered_by_their_bytes(pg: Any):
    rows = pg.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C' AND table_name <> %s",
        (migrations.TABLE,),
    ).fetchall()
    assert rows == []


def test_the_keys_and_unique_indexes_are_the_same(sqlite: Any, pg: Any):
    wanted, found = set(), set()
    for table in tables(sqlite):
        key = [
            row[1] for row in sorted(sqlite.execute(f"PRAGMA table_info({table})"), key=lambda row: row[5]) if row[5]
        ]
        if key:
            wanted.add((table, tuple(key), False))
        for _, name, unique, origin, partial in sqlite.execute(f"PRAGMA index_list({table})"):
            columns = tuple(row[2] for row in sqlite.execute(f"PRAGMA index_info({name})"))
            if unique and origin != "pk":
                wanted.add((table, columns, bool(partial)))
    rows = pg.execute(
        "SELECT t.relname, ARRAY(SELECT a.attname::text FROM unnest(x.indkey) WITH ORDINALITY AS k (number, place) "
        "JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number ORDER BY k.place), "
        "x.indpred IS NOT NULL FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid "
        "WHERE x.indisunique AND t.relnamespace = 2200"
    )
    found = {(table, tuple(columns), partial) for table, columns, partial in rows if table not in OWN}
    assert found == wanted


def test_the_named_indexes_are_the_same(sqlite: Any, pg: Any):
    rows = sqlite.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    wanted = {name: " ".join(sql.split()) for name, sql in rows if "sqlite" not in name}
    made = {words.split(" ON ")[0].split()[-1]: " ".join(words.split()) for words in schema.INDEXES}
    assert made == wanted
    rows = pg.execute("SELECT relname FROM pg_class WHERE relkind = 'i' AND relnamespace = 2200")
    assert set(wanted) <= {name for (name,) in rows}


def test_the_foreign_keys_and_checks_are_the_same(sqlite: Any, pg: Any):
    wanted = set()
    for table in tables(sqlite):
        for row in sqlite.execute(f"PRAGMA foreign_key_list({table})"):
            wanted.add((table, row[3], row[2], row[4]))
    rows = pg.execute(
        "SELECT pg_get_constraintdef(oid), conrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
    )
    pattern = re.compile(r"FOREIGN KEY \((\w+)\) REFERENCES (\w+)\((\w+)\)")
    found = {(table, *found.groups()) for words, table in rows if (found := pattern.fullmatch(words))}
    assert found == wanted
    rows = sqlite.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%sqlite%'")
    checks = sorted(re.sub(r"[() ]", "", each) for (sql,) in rows for each in re.findall(r"CHECK (\([^)]*\))", sql))
    rows = pg.execute("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' AND connamespace = 2200")
    assert sorted(re.sub(r"^CHECK|[() ]", "", words) for (words,) in rows) == checks


def test_the_triggers_have_the_same_names_and_tables(sqlite: Any, pg: Any):
    wanted = set(sqlite.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"))
    rows = pg.execute("SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal")
    assert {tuple(row) for row in rows} == {tuple(row) for row in wanted}


def test_the_rows_of_a_new_database_are_the_same(sqlite: Any, pg: Any):
    for table in tables(sqlite):
        query = f"SELECT * FROM {table}"  # noqa: S608
        assert pg.execute(query).fetchall() == [tuple(row) for row in sqlite.execute(query)], table


async def told(db: Database, story: tuple[tuple[str, tuple[Any, ...]], ...]) -> list[Any]:
    """The result of each statement, and all rows after it."""
    found: list[Any] = []
    for sql, params in story:

        def unit(tx: Tx, sql: str = sql, params: tuple[Any, ...] = params) -> int:
            return tx.execute(sql, params)

        try:
            found.append(await db.write(unit))
        except Taken as error:
            found.append(("taken", error.table, error.columns))
        except StatementRefused as error:
            text = str(error)
            found.append(("refused", text if "append-only" in text or "limit" in text else ""))
        rows = await db.read(lambda tx: {table: tx.fetch(f"SELECT * FROM {table}") for table in SHOWN})  # noqa: S608
        found.append({table: sorted(map(str, each)) for table, each in rows.items()})
    return found


@pytest.mark.parametrize("name", STORIES)
async def test_the_triggers_have_the_same_effects(name: str):
    here = SqliteDatabase(":memory:", lambda: datetime.now(UTC), threads=False)
    there = postgres.opened(postgres.fresh())
    assert await told(there, STORIES[name]) == await told(here, STORIES[name])


def test_a_database_of_another_program_or_of_a_later_version_is_refused():
    url = postgres.server().create()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("CREATE TABLE theirs (id INTEGER)")
    with pytest.raises(UnusableServer, match="another program"):
        postgres.opened(url)
    later = postgres.fresh()
    with psycopg.connect(later, autocommit=True) as admin:
        admin.execute("INSERT INTO gpuproxy_migrations (number, name) VALUES (999, 'later')")
        with pytest.raises(UnusableServer, match="later version"):
            postgres.opened(later)
        admin.execute("DELETE FROM gpuproxy_migrations WHERE number = 999")


def test_a_command_creates_no_schema():
    with pytest.raises(UnusableServer, match="start the server"):
        PostgresDatabase(postgres.server().create(), "command", migrate=False, unsafe=True, threads=False)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"fsync": "off"}, "fsync is off"),
        ({"synchronous": "off"}, "synchronous_commit is off"),
        ({"synchronous": "local", "standbys": "s1"}, "synchronous_commit is local"),
    ],
)
def test_settings_by_which_commits_can_be_lost_are_refused(state: dict[str, str], text: str):
    durable = {"fsync": "on", "synchronous": "on", "standbys": ""}
    require_durable(durable)
    require_durable(durable | {"synchronous": "local"})
    with pytest.raises(UnusableServer, match=text):
        require_durable(durable | state)


def test_the_tests_server_is_refused_without_the_permission_to_lose_commits():
    with pytest.raises(UnusableServer, match="fsync is off"):
        PostgresDatabase(postgres.fresh(), "safe", threads=False)


def test_the_check_of_the_limits_is_planned_once_for_each_connection(pg: Any):
    rows = pg.execute("SELECT proname FROM pg_proc WHERE 'plan_cache_mode=force_generic_plan' = ANY (proconfig)")
    checks = pg.execute("SELECT proname FROM pg_proc WHERE prosrc LIKE '%spending limit exceeded%'")
    assert sorted(rows) == sorted(checks) != []


def test_a_database_of_the_version_before_is_migrated():
    url = postgres.server().create()
    PostgresDatabase(url, "before", unsafe=True, threads=False)._writer.close()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("ALTER FUNCTION spend_hold_raised RESET ALL")
        admin.execute("DELETE FROM gpuproxy_migrations WHERE number = 2")
        PostgresDatabase(url, "after", unsafe=True, threads=False)._writer.close()
        found = admin.execute("SELECT proconfig FROM pg_proc WHERE proname = 'spend_hold_raised'").fetchone()
    assert found == (["plan_cache_mode=force_generic_plan"],)

"""A database is moved from SQLite to PostgreSQL whole or not at all, and the file is not used again by mistake."""

from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from gpuproxy.app import moving
from gpuproxy.app.opening import open_database
from gpuproxy.cli import root
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.store import leases, ledger_check, meta
from gpuproxy.store import moving as store_moving
from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.store.sqlite.driver import sqlite3
from tests import databases, postgres
from tests.past import fill
from tests.sums import recomputed_sums, stored_sums
from tests.world import World, in_world

pytestmark = databases.sqlite_only


@pytest.fixture
def old(tmp_path: Path) -> Settings:
    """A file with the books of some days, of one machine that is rented, and of everything that a text can have."""

    async def story(world: World) -> None:
        now = world.clock.now()
        fill(world.db._writer.conn, 40, now.replace(year=2020), now.replace(year=2021))
        await world.reserve(2)
        await world.sleep(4000)
        await world.reserve(1, project="p2")
        await world.db.write(lambda tx: meta.write(tx, "odd", "ÄŒ日本\n\t\\'\"\x00%s?"))
        await world.db.write(lambda tx: meta.write(tx, meta.MARKET, "sandbox"))
        file = sqlite3.connect(tmp_path / "books.db")
        world.db._writer.conn.backup(file)
        file.close()

    in_world(story)
    return Settings(database_url=f"sqlite:///{tmp_path}/books.db")


@pytest.fixture
def new() -> Settings:
    return Settings(database_url=postgres.server().create(), allow_unsafe_postgres=True)


def rows_of(settings: Settings) -> dict[str, list[str]]:
    """All rows of each table."""
    if settings.on_postgres:
        with psycopg.connect(settings.database_url) as connection:
            return {each: sorted(map(str, connection.execute(f"SELECT * FROM {each}"))) for each in store_moving.TABLES}  # noqa: S608
    connection = sqlite3.connect(settings.database_path)
    return {each: sorted(map(str, connection.execute(f"SELECT * FROM {each}"))) for each in store_moving.TABLES}  # noqa: S608


async def test_everything_is_moved_and_the_sums_and_the_ledger_agree(old: Settings, new: Settings):
    before = rows_of(old)
    async with open_database(old) as db:
        checked = await db.read(ledger_check.full)
    moved = await moving.migrate(old, new)
    after = rows_of(new)
    assert {each.name: each.rows for each in moved} == {name: len(rows) for name, rows in before.items()}
    before["claims"] = after["claims"]  # they became free
    before["meta"] = [row.replace("\\x00", "�") for row in before["meta"]]
    assert after == before
    assert sum(each.rows for each in moved) > 500
    async with open_database(new, alone=False) as db:
        assert await db.read(ledger_check.full) == checked
        assert await db.read(stored_sums) == await db.read(recomputed_sums)
        assert await db.read(leases.exist)
        free = await db.read(lambda tx: [row["owner"] for row in tx.fetch("SELECT owner FROM claims")])
        assert set(free) <= {""}


async def test_the_file_is_refused_after_it_was_moved_until_that_is_undone(old: Settings, new: Settings):
    await moving.migrate(old, new)
    with pytest.raises(ConfigError, match="was moved to postgresql://"):
        async with open_database(old):
            raise AssertionError
    with pytest.raises(ConfigError, match="was moved to"):
        await moving.migrate(old, Settings(database_url=postgres.server().create(), allow_unsafe_postgres=True))
    assert await moving.undo(old)
    assert not await moving.undo(old)
    async with open_database(old) as db:
        assert await db.read(lambda tx: meta.read(tx, meta.MARKET)) == "sandbox"


async def test_an_older_server_does_not_start_on_it_either(old: Settings, new: Settings):
    """It knows nothing of the mark, but compares the kind of the market."""
    await moving.migrate(old, new)
    connection = sqlite3.connect(old.database_path)
    assert connection.execute("SELECT value FROM meta WHERE key = 'market'").fetchone() == ("moved",)


async def test_a_database_that_is_not_empty_is_refused(old: Settings, new: Settings):
    async with open_database(new) as db:
        await db.write(lambda tx: meta.write(tx, "a", "1"))
    before = rows_of(new)
    with pytest.raises(ConfigError, match="not empty: its table meta"):
        await moving.migrate(old, new)
    assert rows_of(new) == before
    async with open_database(old):
        pass


async def test_databases_that_servers_use_are_refused(old: Settings, new: Settings):
    async with open_database(old):
        with pytest.raises(ConfigError, match="in use by another GPU Proxy server"):
            await moving.migrate(old, new)
    async with open_database(new) as db:
        assert not isinstance(db, SqliteDatabase)
        while not await _heard(new):
            pass
        with pytest.raises(ConfigError, match="in use by a GPU Proxy server"):
            await moving.migrate(old, new)
    async with open_database(old):
        pass


async def _heard(settings: Settings) -> bool:
    with psycopg.connect(settings.database_url) as connection:
        return connection.execute("SELECT 1 FROM writers WHERE alive_at > 0").fetchone() is not None


@pytest.mark.parametrize(
    "change",
    ["UPDATE meta SET value = value || ' ' WHERE key = 'odd'", "DELETE FROM hosts", "UPDATE events SET at = at + 1"],
)
async def test_a_copy_that_differs_is_not_kept(old: Settings, new: Settings, change: str):
    """The copy is changed before it is compared."""
    table = next(name for name in store_moving.TABLES if f" {name} " in f"{change} ")
    async with open_database(new):
        pass
    with psycopg.connect(new.database_url, autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION spoil() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF position('{table} enable' in lower(current_query())) > 0 THEN {change}; END IF; END $$"
        )
        admin.execute("CREATE EVENT TRIGGER spoil ON ddl_command_end EXECUTE FUNCTION spoil()")
    with pytest.raises(ConfigError, match=f"copy of the table {table} differs"):
        await moving.migrate(old, new)
    assert all(len(rows) == (name in ("spent", "webhook_sequence")) for name, rows in rows_of(new).items())
    async with open_database(old):
        pass


def test_the_command_says_what_it_moved_and_what_to_copy(old: Settings, new: Settings, monkeypatch: pytest.MonkeyPatch):
    old.fingerprint_key_file.write_text("secret")
    monkeypatch.chdir(old.database_path.parent)
    monkeypatch.setenv("GPUPROXY_ALLOW_UNSAFE_POSTGRES", "true")
    monkeypatch.setenv("GPUPROXY_DATABASE_URL", new.database_url)
    result = CliRunner().invoke(root, ["migrate-books", old.database_url])
    assert result.exit_code == 0, result.output
    assert "Counts, sums and hashes agree." in result.stdout
    assert "leases: 4" in result.stdout
    assert f"copy {old.fingerprint_key_file} to gpuproxy.demand-key" in result.stdout
    again = CliRunner().invoke(root, ["migrate-books", old.database_url])
    assert (again.exit_code, "was moved to" in again.stderr) == (2, True)
    undone = CliRunner().invoke(root, ["migrate-books", "--undo", old.database_url])
    assert "may be used again" in undone.stdout


def test_only_sqlite_is_moved_to_postgres(old: Settings, new: Settings):
    for source, target in ((new, old), (old, old), (new, new)):
        with pytest.raises(ConfigError, match="sqlite:/// to postgresql:// only"):
            moving._check(source, target)

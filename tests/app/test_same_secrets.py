"""The secrets that all servers of a deployment must have in common, and the key of the first admin."""

import asyncio
import base64
from pathlib import Path

import pytest

from gpuproxy.adapters import private_files
from gpuproxy.app import deployment, same_secrets
from gpuproxy.app.pool_secrets import secrets_key
from gpuproxy.app.same_secrets import DEMAND_KEY, POOL_KEY
from gpuproxy.config.environment import ConfigError
from gpuproxy.ports import Database
from gpuproxy.store import keys
from gpuproxy.store.sqlite.database import SqliteDatabase
from tests.mortal import Life, MortalDatabase
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import SeededRandom


def shared_by(number: int) -> list[Database]:
    """One database as so many servers see it."""
    db = SqliteDatabase(":memory:", VirtualClock().now, threads=False)
    return [MortalDatabase(db, Life(), lambda: 0.0, lambda: None, exclusive=False) for _ in range(number)]


def test_a_server_with_another_secret_does_not_start_and_says_which_one() -> None:
    async def story(_clock: VirtualClock) -> None:
        first, second = shared_by(2)
        await same_secrets.require_same(first, {DEMAND_KEY: b"a" * 32, POOL_KEY: b"b" * 32})
        await same_secrets.require_same(second, {DEMAND_KEY: b"a" * 32, POOL_KEY: b"b" * 32})
        with pytest.raises(ConfigError) as refused:
            await same_secrets.require_same(second, {DEMAND_KEY: b"a" * 32, POOL_KEY: b"c" * 32})
        assert POOL_KEY in str(refused.value)
        assert "not started" in str(refused.value)
        assert same_secrets.fingerprint(POOL_KEY, b"b" * 32) in str(refused.value)
        assert "cccc" not in str(refused.value)

    run_virtual(story)


def test_a_secret_that_only_some_servers_have_is_another_secret() -> None:
    async def story(_clock: VirtualClock) -> None:
        first, second = shared_by(2)
        await same_secrets.require_same(first, {"GPUPROXY_SSH_CHECK_KEY": b"key"})
        with pytest.raises(ConfigError, match="GPUPROXY_SSH_CHECK_KEY"):
            await same_secrets.require_same(second, {"GPUPROXY_SSH_CHECK_KEY": b""})

    run_virtual(story)


def test_force_makes_the_secrets_of_one_server_those_of_all() -> None:
    async def story(_clock: VirtualClock) -> None:
        first, second = shared_by(2)
        await same_secrets.require_same(first, {DEMAND_KEY: b"old"})
        await same_secrets.require_same(second, {DEMAND_KEY: b"new"}, force=True)
        with pytest.raises(ConfigError):
            await same_secrets.require_same(first, {DEMAND_KEY: b"old"})

    run_virtual(story)


def test_a_server_alone_may_change_its_secrets() -> None:
    async def story(_clock: VirtualClock) -> None:
        db = SqliteDatabase(":memory:", VirtualClock().now, threads=False)
        await same_secrets.require_same(db, {DEMAND_KEY: b"old"})
        await same_secrets.require_same(db, {DEMAND_KEY: b"new"})

    run_virtual(story)


def test_a_second_server_without_the_key_files_is_told_to_copy_them(tmp_path: Path) -> None:
    async def story(_clock: VirtualClock) -> None:
        first, second = shared_by(2)
        here, there = tmp_path / "here", tmp_path / "there"
        made = await deployment.fingerprint_key(first, SeededRandom(1), here / "demand")
        with pytest.raises(ConfigError, match=f"{DEMAND_KEY}.*Copy the file"):
            await deployment.fingerprint_key(second, SeededRandom(2), there / "demand")
        assert not (there / "demand").exists()
        (there / "demand").write_text(base64.b64encode(made).decode())
        assert await deployment.fingerprint_key(second, SeededRandom(2), there / "demand") == made
        await secrets_key(first, here / "pools")
        with pytest.raises(ConfigError, match=f"{POOL_KEY}.*Copy the file"):
            await secrets_key(second, there / "pools")

    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    run_virtual(story)


def test_servers_that_start_together_create_one_key_for_the_first_admin(tmp_path: Path) -> None:
    async def story(_clock: VirtualClock) -> None:
        servers = shared_by(3)
        texts = await asyncio.gather(
            *(deployment.ensure_admin(db, SeededRandom(n), "", tmp_path / f"key{n}") for n, db in enumerate(servers))
        )
        assert sum(bool(text) for text in texts) == 1
        rows = await servers[0].read(lambda tx: keys.listed(tx, None))
        assert [row.name for row in rows] == ["admin"]

    run_virtual(story)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("secret", ["admin", "demand", "pools"])
def test_a_start_that_can_not_write_a_new_secret_leaves_no_trace_of_it(
    tmp_path: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def made(db: Database) -> object:
        if secret == "admin":
            return await deployment.ensure_admin(db, SeededRandom(1), "", tmp_path / secret)
        if secret == "demand":
            return await deployment.fingerprint_key(db, SeededRandom(1), tmp_path / secret)
        return await secrets_key(db, tmp_path / secret)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def story(_clock: VirtualClock) -> None:
        (db,) = shared_by(1)
        with monkeypatch.context() as patched:
            patched.setattr(private_files, "_write", full)
            with pytest.raises((deployment.WrongDatabase, ConfigError)):
                await made(db)
        assert await made(db)
        assert (tmp_path / secret).read_text()

    run_virtual(story)


def test_a_secret_that_another_server_has_made_in_the_meantime_leaves_no_file(tmp_path: Path) -> None:
    async def story(_clock: VirtualClock) -> None:
        servers = shared_by(2)
        results = await asyncio.gather(
            *(deployment.fingerprint_key(db, SeededRandom(n), tmp_path / f"key{n}") for n, db in enumerate(servers)),
            return_exceptions=True,
        )
        assert sorted(type(each).__name__ for each in results) == ["ConfigError", "bytes"]

    run_virtual(story)
    assert len(list(tmp_path.iterdir())) == 1

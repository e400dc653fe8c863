"""A faulty SQLite and a network file system are refused before anything is written, unless a setting allows them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from gpuproxy.app import upkeep, user_admin
from gpuproxy.app.local_database import with_database
from gpuproxy.cli import root
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.store.sqlite import driver, mounts
from gpuproxy.store.sqlite.database import SqliteDatabase


def settings_in(directory: Path, **chosen: Any) -> Settings:
    return Settings(database_url=f"sqlite:///{directory}/books.db", **chosen)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "VERSION", (3, 40, 1))


@pytest.fixture
def on_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that the table of mounts shows as a network file system."""
    folder = tmp_path / "share"
    folder.mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / / rw - ext4 /dev/sda rw\n2 1 0:2 / {folder} rw - nfs4 store:/export rw\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", table)
    return folder


def open_alone(settings: Settings) -> None:
    async def nothing(_: SqliteDatabase) -> None: ...

    with_database(settings, nothing, alone=True, may_create=True)


def create_key(settings: Settings) -> None:
    user_admin.create_key(settings, "ci", "user", "default")


def look(settings: Settings) -> None:
    upkeep.doctor(settings)


def back_up(settings: Settings) -> None:
    upkeep.backup(settings, settings.database_path.with_name("copy.db"))


EVERY = pytest.mark.parametrize("command", [open_alone, create_key, look, back_up])


@EVERY
@pytest.mark.usefixtures("faulty")
def test_a_vulnerable_sqlite_opens_no_database(tmp_path: Path, command: Callable[[Settings], None]) -> None:
    create_key(settings_in(tmp_path, allow_vulnerable_sqlite=True))
    before = {each.name for each in tmp_path.iterdir()}
    with pytest.raises(ConfigError) as refused:
        command(settings_in(tmp_path))
    assert str(refused.value).startswith("SQLite 3.40.1 can lose a commit that races a checkpoint (fixed in 3.51.3, ")
    assert "Install the package pysqlite3" in str(refused.value)
    assert str(refused.value).endswith("To accept the risk, set GPUPROXY_ALLOW_VULNERABLE_SQLITE=true.")
    assert {each.name for each in tmp_path.iterdir()} == before


@EVERY
@pytest.mark.usefixtures("faulty")
def test_a_vulnerable_sqlite_that_is_allowed_works(tmp_path: Path, command: Callable[[Settings], None]) -> None:
    settings = settings_in(tmp_path, allow_vulnerable_sqlite=True)
    create_key(settings)
    command(settings)


@EVERY
def test_a_database_on_a_network_file_system_is_not_opened(
    on_network: Path, command: Callable[[Settings], None]
) -> None:
    create_key(settings_in(on_network, allow_network_database=True))
    before = {each.name for each in on_network.iterdir()}
    with pytest.raises(ConfigError) as refused:
        command(settings_in(on_network))
    said = f"GPUPROXY_DATABASE_URL: {on_network}/books.db is on a network file system (nfs4), where SQLite's locks"
    assert str(refused.value).startswith(said)
    assert str(refused.value).endswith("To accept the risk, set GPUPROXY_ALLOW_NETWORK_DATABASE=true.")
    assert {each.name for each in on_network.iterdir()} == before


@EVERY
def test_a_database_on_a_network_file_system_that_is_allowed_works(
    on_network: Path, command: Callable[[Settings], None]
) -> None:
    settings = settings_in(on_network, allow_network_database=True)
    create_key(settings)
    command(settings)


def test_a_link_to_a_network_file_system_is_refused(tmp_path: Path, on_network: Path) -> None:
    (tmp_path / "books.db").symlink_to(on_network / "books.db")
    with pytest.raises(ConfigError, match="network file system"):
        create_key(settings_in(tmp_path))
    assert list(on_network.iterdir()) == []


def test_a_link_to_a_local_disk_is_accepted(tmp_path: Path, on_network: Path) -> None:
    (on_network / "books.db").symlink_to(tmp_path / "books.db")
    create_key(settings_in(on_network))
    assert (tmp_path / "books.db").exists()


def test_a_copy_of_a_local_database_may_go_to_a_network_file_system(tmp_path: Path, on_network: Path) -> None:
    create_key(settings_in(tmp_path))
    upkeep.backup(settings_in(tmp_path), on_network / "copy.db")
    assert [key.name for key in user_admin.list_keys(settings_in(tmp_path))] == ["ci"]


@pytest.mark.usefixtures("faulty")
def test_a_server_logs_an_allowed_risk_and_a_command_does_not(
    on_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(on_network, allow_network_database=True, allow_vulnerable_sqlite=True)
    with structlog.testing.capture_logs() as lines:
        open_alone(settings)
    warned = [(line["event"], line["log_level"]) for line in lines]
    assert warned == [("vulnerable_sqlite_allowed", "warning"), ("network_database_allowed", "warning")]
    monkeypatch.setenv("GPUPROXY_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("GPUPROXY_ALLOW_NETWORK_DATABASE", "true")
    monkeypatch.setenv("GPUPROXY_ALLOW_VULNERABLE_SQLITE", "true")
    result = CliRunner().invoke(root, ["keys", "create", "ci"])
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)


def test_a_safe_database_logs_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, allow_network_database=True, allow_vulnerable_sqlite=True)
    with structlog.testing.capture_logs() as lines:
        open_alone(settings)
    assert lines == []


@pytest.mark.usefixtures("faulty")
def test_a_server_that_must_not_start_prints_only_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("GPUPROXY_", "VASTAI_"))]:
        monkeypatch.delenv(name)
    result = CliRunner().invoke(root, ["serve", "--sandbox"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

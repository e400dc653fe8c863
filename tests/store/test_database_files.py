"""The files beside a database are beside the real file, but existing files beside a link are found there."""

from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpuproxy.app import upkeep, user_admin
from gpuproxy.cli import root
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.store.sqlite import files as database_files
from gpuproxy.store.sqlite.driver import sqlite3


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A link to a database that doesn't exist yet, in another folder."""
    for name in ("links", "disk"):
        (tmp_path / name).mkdir()
    made = tmp_path / "links" / "link.db"
    made.symlink_to(Path("..") / "disk" / "books.db")
    return made


def settings_of(path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{path}")


def kept(settings: Settings) -> tuple[Path, ...]:
    return settings.admin_key_file, settings.fingerprint_key_file, settings.sandbox_state_file


ENDS = (".admin-key", ".demand-key", ".sandbox")


def test_keys_of_a_new_database_are_beside_the_file_and_not_beside_a_link(tmp_path: Path, link: Path) -> None:
    assert kept(settings_of(link)) == tuple(tmp_path / "disk" / f"books.db{end}" for end in ENDS)


@pytest.mark.parametrize("both", [True, False])
def test_an_existing_key_beside_the_link_is_found_there(tmp_path: Path, link: Path, both: bool) -> None:
    left = [Path(f"{link}{end}") for end in ENDS]
    for end, file in zip(ENDS, left, strict=True):
        file.write_text("key")
        if both:
            (tmp_path / "disk" / f"books.db{end}").write_text("another")
    assert kept(settings_of(link)) == tuple(left)


def test_the_names_of_a_database_without_a_link_are_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("books.db", "./books.db", "folder/books.db", str(tmp_path / "books.db")):
        assert kept(settings_of(Path(name))) == tuple(Path(f"{name}{end}") for end in ENDS)


def test_the_ballast_is_on_the_disk_where_the_log_is(tmp_path: Path, link: Path) -> None:
    Path(f"{link}.ballast").touch()
    assert database_files.beside(link, ".ballast") == tmp_path / "disk" / "books.db.ballast"


@pytest.mark.parametrize("end", database_files.ENDS)
@pytest.mark.parametrize("name", ["links/link.db", "disk/books.db"])
def test_no_copy_overwrites_a_file_of_the_database_under_either_name(
    tmp_path: Path, link: Path, name: str, end: str
) -> None:
    user_admin.create_key(settings_of(link), "ci", "user", "default")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"is a file of the database itself\. Name another file"):
        upkeep.backup(settings_of(link), tmp_path / f"{name}{end}")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_database_behind_a_link_is_copied_with_all_commits(tmp_path: Path, link: Path) -> None:
    user_admin.create_key(settings_of(link), "ci", "user", "default")
    upkeep.backup(settings_of(link), tmp_path / "copy.db")
    assert [key.name for key in user_admin.list_keys(settings_of(tmp_path / "copy.db"))] == ["ci"]


def test_a_database_with_two_names_is_not_copied_because_one_of_them_may_lack_the_log(tmp_path: Path) -> None:
    user_admin.create_key(settings_of(tmp_path / "books.db"), "ci", "user", "default")
    (tmp_path / "second.db").hardlink_to(tmp_path / "books.db")
    with pytest.raises(ConfigError, match=r"can't be copied: it has 2 names \(hard links\)"):
        upkeep.backup(settings_of(tmp_path / "second.db"), tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_name_that_looks_like_a_uri_is_a_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SQLite of pysqlite3 reads URIs by default."""
    monkeypatch.chdir(tmp_path)
    settings = settings_of(Path("file:books.db"))
    user_admin.create_key(settings, "ci", "user", "default")
    monkeypatch.setenv("GPUPROXY_DATABASE_URL", settings.database_url)
    result = CliRunner().invoke(root, ["backup", "file:copy.db?mode=memory"])
    assert result.exit_code == 0, result.output
    assert {each.name for each in tmp_path.iterdir()} == {
        "file:books.db", "file:books.db.lock", "file:copy.db?mode=memory"
    }  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "file:copy.db?mode=memory")) as copy:
        assert copy.execute("SELECT name FROM api_keys").fetchall() == [("ci",)]

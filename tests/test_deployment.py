"""What is made once with a database: the secret of tokens in it, the key of demands beside it."""

from pathlib import Path

import pytest

from gpuproxy import deployment
from gpuproxy.deployment import WrongDatabase
from gpuproxy.store.sqlite import SqliteDatabase
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import SeededRandom


def test_the_key_of_demands_is_made_once_in_a_file_of_its_owners_alone(tmp_path: Path) -> None:
    file, random = tmp_path / "books.db.demand-key", SeededRandom(1)
    key = deployment.fingerprint_key(random, file)
    assert len(key) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert deployment.fingerprint_key(random, file) == key
    file.unlink()
    assert deployment.fingerprint_key(random, file) != key


def test_a_key_of_demands_that_is_none_stops_the_start_and_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "books.db.demand-key"
    file.write_text("canary\n")
    with pytest.raises(WrongDatabase, match="does not hold the key") as caught:
        deployment.fingerprint_key(SeededRandom(1), file)
    assert "canary" not in str(caught.value)


def test_a_kept_key_that_others_could_read_is_made_private_when_it_is_read_or_written(tmp_path: Path) -> None:
    read, written = tmp_path / "read", tmp_path / "written"
    read.write_text("A" * 43 + "=\n")
    written.touch()
    for file in (read, written):
        file.chmod(0o644)
        deployment.fingerprint_key(SeededRandom(1), file)
        assert file.stat().st_mode & 0o777 == 0o600
    assert read.read_text() == "A" * 43 + "=\n"


def test_a_key_is_never_kept_behind_a_link(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    with pytest.raises(WrongDatabase, match="can't be written"):
        deployment.fingerprint_key(SeededRandom(1), link)
    assert not target.exists()


def test_the_secret_of_tokens_is_the_operators_or_stays_as_it_was_made() -> None:
    async def story(clock: VirtualClock) -> None:
        db, random = SqliteDatabase(":memory:", clock.now, threads=False), SeededRandom(1)
        made = await deployment.token_secret(db, random, "")
        assert await deployment.token_secret(db, random, "configured") == "configured"
        assert await deployment.token_secret(db, random, "") == made
        assert len(made) >= 32

    run_virtual(story)

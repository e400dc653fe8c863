"""Secrets that are created once with a database: the token secret in it, the fingerprint key beside it."""

import hashlib
from pathlib import Path

import pytest
import structlog

from gpuproxy.app import deployment
from gpuproxy.app.deployment import WrongDatabase
from gpuproxy.config.environment import ConfigError
from gpuproxy.identity.key_rings import KeyRing
from gpuproxy.model.leases import ReservationId
from gpuproxy.model.reservations import Reservation
from gpuproxy.ports import Tx
from gpuproxy.store import reservations
from tests import databases
from tests.mortal import Life, MortalDatabase
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import SeededRandom


def key_of(random: SeededRandom, file: Path, fingerprint: str = "") -> bytes:
    """The fingerprint key of a deployment in memory, with one reservation that has this fingerprint."""
    found = []

    async def story(clock: VirtualClock) -> None:
        db = databases.opened(clock.now)
        if fingerprint:
            await db.write(lambda tx: reservations.insert(tx, _made(tx, fingerprint)))
        found.append(await deployment.fingerprint_key(db, random, file))

    run_virtual(story)
    return found[0]


def _made(tx: Tx, fingerprint: str) -> Reservation:
    return Reservation(
        id=ReservationId("res-1"),
        project="p1",
        request_id="train-7",
        fingerprint=fingerprint,
        count=1,
        least=1,
        keep=True,
        strategy="lowest_price",
        labels=(),
        created_at=tx.now(),
        expires_at=None,
        version=1,
        replace_unready=False,
        ready_timeout_s=60.0,
    )


@pytest.mark.parametrize("left", [None, "", "\n"])
def test_a_lost_fingerprint_key_prevents_the_start_once_repeats_need_it(tmp_path: Path, left: str | None) -> None:
    file = tmp_path / "books.db.demand-key"
    if left is not None:
        file.write_text(left)
    with pytest.raises(WrongDatabase, match=r"missing or empty.*Restore the file.*create a new key") as caught:
        key_of(SeededRandom(1), file, "k1:abc")
    assert str(file) in str(caught.value)
    assert (file.read_text() if file.exists() else None) == left
    file.write_text("A" * 43 + "=\n")
    assert key_of(SeededRandom(1), file, "k1:abc") == bytes(32)


def test_a_database_from_before_fingerprint_keys_gets_one(tmp_path: Path) -> None:
    assert len(key_of(SeededRandom(1), tmp_path / "key", "0123abc")) == 32


def test_the_fingerprint_key_is_created_once_in_a_private_file(tmp_path: Path) -> None:
    file, random = tmp_path / "books.db.demand-key", SeededRandom(1)
    key = key_of(random, file)
    assert len(key) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert key_of(random, file) == key
    file.unlink()
    assert key_of(random, file) != key


def test_an_invalid_fingerprint_key_prevents_the_start_and_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "books.db.demand-key"
    file.write_text("canary\n")
    with pytest.raises(WrongDatabase, match="does not contain a valid key") as caught:
        key_of(SeededRandom(1), file)
    assert "canary" not in str(caught.value)


def test_a_key_file_that_others_can_read_is_made_private_when_it_is_read_or_written(tmp_path: Path) -> None:
    read, written = tmp_path / "read", tmp_path / "written"
    read.write_text("A" * 43 + "=\n")
    written.touch()
    for file in (read, written):
        file.chmod(0o644)
        key_of(SeededRandom(1), file)
        assert file.stat().st_mode & 0o777 == 0o600
    assert read.read_text() == "A" * 43 + "=\n"


def test_a_key_is_never_stored_through_a_link(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    with pytest.raises(WrongDatabase, match="can't be written"):
        key_of(SeededRandom(1), link)
    assert not target.exists()


def test_the_token_secret_is_the_configured_one_or_the_one_created_first() -> None:
    async def story(clock: VirtualClock) -> None:
        db, random = databases.opened(clock.now), SeededRandom(1)
        made = await deployment.token_secret(db, random, "")
        assert await deployment.token_secret(db, random, "configured") == "configured"
        assert await deployment.token_secret(db, random, "") == made
        assert len(made) >= 32

    run_virtual(story)


def test_a_changed_admin_key_revokes_the_previous_one_and_no_other(tmp_path: Path) -> None:
    async def story(clock: VirtualClock) -> None:
        db, random = databases.opened(clock.now), SeededRandom(1)
        ring, made = KeyRing(db, random), []
        for name, role, user in (("admin (configured)", "user", ""), ("admin (configured)", "admin", "u-1")):
            made.append((await ring.create(deployment.DEFAULT_PROJECT, name, role, user)).text)
        made.append(await deployment.ensure_admin(db, random, "", tmp_path / "admin-key"))
        for text in ("o" * 20, "o" * 20, "n" * 20):
            await deployment.ensure_admin(db, random, text, tmp_path / "admin-key")
        found = [await ring.find(hashlib.sha256(text.encode()).hexdigest()) for text in (*made, "o" * 20, "n" * 20)]
        assert [row is not None for row in found] == [True, True, True, False, True]

    run_virtual(story)


@pytest.mark.parametrize("exclusive", [True, False])
def test_an_admin_key_that_is_removed_from_the_settings_is_revoked_where_no_other_server_can_have_it(
    tmp_path: Path, *, exclusive: bool
) -> None:
    async def story(clock: VirtualClock) -> None:
        db = MortalDatabase(databases.opened(clock.now), Life(), lambda: 0.0, lambda: None, exclusive=exclusive)
        random, file = SeededRandom(1), tmp_path / "admin-key"
        ring = KeyRing(db, random)
        others = [await ring.create(deployment.DEFAULT_PROJECT, "ci", "admin"),
                  await ring.create(deployment.DEFAULT_PROJECT, "admin (configured)", "user"),
                  await ring.create("p1", "admin (configured)", "admin"),
                  await ring.create(deployment.DEFAULT_PROJECT, "admin (configured)", "admin", "u-1")]  # fmt: skip
        await deployment.ensure_admin(db, random, "o" * 20, file)
        with structlog.testing.capture_logs() as lines:
            made = [await deployment.ensure_admin(db, random, "", file) for _ in range(2)]
        assert made[0] == made[1] == file.read_text().strip()
        texts = ("o" * 20, made[0], *(each.text for each in others))
        found = [await ring.find(hashlib.sha256(text.encode()).hexdigest()) for text in texts]
        assert [row is not None for row in found] == [not exclusive, *[True] * 5]
        events = ["admin_key_removed"] if exclusive else ["admin_key_left"] * 2
        assert [line["event"] for line in lines] == events
        assert "ooo" not in str(lines)

    run_virtual(story)


def test_an_admin_key_that_moved_from_the_settings_to_the_key_file_stays_valid(tmp_path: Path) -> None:
    async def story(clock: VirtualClock) -> None:
        db, random, file = databases.opened(clock.now), SeededRandom(1), tmp_path / "admin-key"
        await deployment.ensure_admin(db, random, "o" * 20, file)
        file.write_text("o" * 20 + "\n")
        file.chmod(0o600)
        with structlog.testing.capture_logs() as lines:
            assert await deployment.ensure_admin(db, random, "", file) == "o" * 20
        assert await KeyRing(db, random).find(hashlib.sha256(b"o" * 20).hexdigest()) is not None
        assert lines == []

    run_virtual(story)


def test_a_configured_key_that_was_revoked_stays_revoked_and_is_logged(tmp_path: Path) -> None:
    async def story(clock: VirtualClock) -> None:
        db, random = databases.opened(clock.now), SeededRandom(1)
        with structlog.testing.capture_logs() as lines:
            for text in ("o" * 20, "n" * 20, "o" * 20):
                await deployment.ensure_admin(db, random, text, tmp_path / "admin-key")
        assert [line["event"] for line in lines] == ["admin_key_replaced", "admin_key_replaced", "admin_key_revoked"]
        assert "ooo" not in str(lines)

    run_virtual(story)


def test_only_generated_keys_show_a_prefix(tmp_path: Path) -> None:
    async def story(clock: VirtualClock) -> None:
        db, random = databases.opened(clock.now), SeededRandom(1)
        made = (await KeyRing(db, random).create("p1", "ci", "user")).text
        await deployment.ensure_admin(db, random, "short-and-of-before", tmp_path / "admin-key")
        await db.write(lambda tx: tx.execute("UPDATE api_keys SET prefix = 'short-and-' WHERE prefix = ''"))
        await deployment.ensure_admin(db, random, "x" * 20, tmp_path / "admin-key")
        assert {row.prefix for row in await KeyRing(db, random).list(None)} == {"", made[:10]}

    run_virtual(story)


def _start(tmp_path: Path, file: Path) -> str:
    """The key of the first admin, or the refusal of the start; `file` is the file of the key."""
    found = []

    async def story(clock: VirtualClock) -> None:
        db = databases.opened(clock.now)
        try:
            found.append(await deployment.ensure_admin(db, SeededRandom(1), "", file))
        except (ConfigError, WrongDatabase) as error:
            found.append(str(error))
            assert not await KeyRing(db, SeededRandom(1)).list(None)

    run_virtual(story)
    return found[0]


@pytest.mark.parametrize(
    "text", ["abc", "x" * 19, "a note to myself that is long", "x" * 20 + "\n" + "y" * 20, "\x07" * 30]
)
def test_a_file_without_a_key_that_is_too_long_to_guess_gives_no_admin(tmp_path: Path, text: str) -> None:
    file = tmp_path / "admin-key"
    file.write_text(text)
    file.chmod(0o644)
    assert _start(tmp_path, file).startswith(f"GPUPROXY_ADMIN_KEY_FILE: {file} must ")
    assert file.stat().st_mode & 0o777 == 0o644, "a file given by mistake is left as it is"
    assert text not in _start(tmp_path, file)
    assert file.read_text() == text


def test_a_file_with_an_own_key_that_is_long_enough_gives_the_admin_that_key(tmp_path: Path) -> None:
    file = tmp_path / "admin-key"
    file.write_text("x" * 20 + "\n")
    assert _start(tmp_path, file) == "x" * 20


def test_a_key_file_that_can_not_be_used_is_refused_with_the_name_of_its_setting(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "note").write_text("a note")
    (tmp_path / "junk").write_bytes(b"\xff\xfe")
    for name in ("folder", "junk", "note", "note/below", "missing/file"):
        assert _start(tmp_path, tmp_path / name).startswith(f"GPUPROXY_ADMIN_KEY_FILE: {tmp_path / name} "), name
        with pytest.raises((ConfigError, WrongDatabase)) as caught:
            key_of(SeededRandom(1), tmp_path / name)
        assert str(caught.value).startswith(f"GPUPROXY_DEMAND_KEY_FILE: {tmp_path / name} "), name


def test_a_demand_key_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("YWJj\n")
    with pytest.raises(WrongDatabase, match="does not contain a valid key"):
        key_of(SeededRandom(1), file)

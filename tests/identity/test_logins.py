"""Logins in virtual time: growing delays, expiring tokens, disabled users, and equal work for every attempt."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jwt
import pytest

from gpuproxy.edge.rpc.auth import Authenticator, TokenAuth
from gpuproxy.identity import passwords as passwords_module
from gpuproxy.identity.key_rings import KeyRing
from gpuproxy.identity.logins import FREE_FAILURES, MAX_DELAY, Logins
from gpuproxy.identity.passwords import Passwords
from gpuproxy.identity.tokens import LIFETIME, Tokens
from gpuproxy.identity.users import UserExists, Users
from gpuproxy.model.errors import Unauthenticated
from tests import databases
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import SeededRandom

pytestmark = pytest.mark.long

T = TypeVar("T")
EMAIL, PASSWORD = "me@example.org", "correct horse"
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check of a password costs a thousandth, for tests with many of them."""
    monkeypatch.setattr(passwords_module, "_MEMORY_KIB", 8)
    monkeypatch.setattr(passwords_module, "_ROUNDS", 1)
    dummy = passwords_module._DUMMY_HASH.replace("m=19456,t=2", "m=8,t=1")
    assert "m=8,t=1" in dummy
    monkeypatch.setattr(passwords_module, "_DUMMY_HASH", dummy)


cheap = pytest.mark.usefixtures("_cheap")


class CountingWorkers:
    """The Workers port without threads; it records the hashes that passwords were compared with."""

    def __init__(self) -> None:
        self.judged: list[str] = []

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        if work.__name__ == "_matches":
            self.judged.append(args[0])
        await asyncio.sleep(0)
        return work(*args)


@dataclass(slots=True, kw_only=True)
class Office:
    """Logins over an empty database in memory."""

    clock: VirtualClock
    db: databases.AnyDatabase
    workers: CountingWorkers
    users: Users
    keys: KeyRing
    tokens: Tokens
    logins: Logins
    authenticator: Authenticator

    async def enters(self, password: str = PASSWORD, *, email: str = EMAIL, network: str = HOME) -> bool:
        try:
            await self.logins.login(email, password, network)
        except Unauthenticated:
            return False
        return True

    async def wrong(self, times: int, *, network: str = HOME) -> None:
        for _ in range(times):
            assert not await self.enters("wrong", network=network)

    async def known(self, text: str) -> bool:
        try:
            await self.authenticator.identify({"authorization": f"Bearer {text}"})
        except Unauthenticated:
            return False
        return True


def in_office(story: Callable[[Office], Awaitable[None]], *, scale: float = 1.0) -> None:
    async def run(clock: VirtualClock) -> None:
        clock.scale = scale
        db, random, workers = databases.opened(clock.now), SeededRandom(1), CountingWorkers()
        passwords, tokens = Passwords(workers), Tokens("s" * 32, clock)
        users, keys = Users(db, random, passwords), KeyRing(db, random)
        await users.create(EMAIL, PASSWORD, project="p1", role="user")
        office = Office(
            clock=clock,
            db=db,
            workers=workers,
            users=users,
            keys=keys,
            tokens=tokens,
            logins=Logins(users, passwords, tokens, clock),
            authenticator=Authenticator(keys.find, clock, TokenAuth(tokens=tokens, find=users.find)),
        )
        await story(office)

    run_virtual(run)


def test_the_right_password_works_in_any_spelling_of_the_email_and_a_wrong_one_does_not() -> None:
    async def story(office: Office) -> None:
        assert await office.enters()
        assert await office.enters(email=" Me@Example.ORG ")
        assert not await office.enters(PASSWORD.upper())
        assert not await office.enters("")
        assert not await office.enters(email="you@example.org")

    in_office(story)


def test_every_failed_login_has_the_same_text_and_checks_exactly_one_password() -> None:
    async def story(office: Office) -> None:
        await office.users.create("gone@example.org", PASSWORD, project="p1", role="user")
        await office.users.disable("gone@example.org")
        await office.wrong(FREE_FAILURES, network=ELSEWHERE)
        texts = set()
        office.workers.judged.clear()
        for email, password, network in (
            (EMAIL, "wrong", HOME),
            ("nobody@example.org", PASSWORD, HOME),
            ("gone@example.org", PASSWORD, HOME),
            (EMAIL, PASSWORD, ELSEWHERE),
            (EMAIL, "wrong", ELSEWHERE),
        ):
            before = len(office.workers.judged)
            with pytest.raises(Unauthenticated) as caught:
                await office.logins.login(email, password, network)
            texts.add(caught.value.message)
            assert len(office.workers.judged) == before + 1
        assert len(texts) == 1
        forms = {hashed.rpartition("$")[0].rpartition("$")[0] for hashed in office.workers.judged}
        assert forms == {"$argon2id$v=19$m=19456,t=2,p=1"}

    in_office(story)


@cheap
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_after_five_wrong_passwords_each_further_one_doubles_the_wait(scale: float) -> None:
    async def story(office: Office) -> None:
        for failures in range(FREE_FAILURES, 20):
            await office.wrong(FREE_FAILURES if failures == FREE_FAILURES else 1)
            delay = min(2.0 ** (failures - FREE_FAILURES), MAX_DELAY)
            await office.clock.sleep((delay - 0.01) * scale)
            assert not await office.enters(), f"{delay} s after failure {failures} are not over"
            await office.clock.sleep(0.02 * scale)
        assert await office.enters()
        await office.wrong(FREE_FAILURES - 1)
        assert await office.enters(), "a success forgets the failures before it"

    in_office(story, scale=scale)


@cheap
def test_attempts_during_a_lock_do_not_prolong_it() -> None:
    async def story(office: Office) -> None:
        await office.wrong(FREE_FAILURES + 3)
        await office.clock.sleep(8.1)
        await office.wrong(1)
        for _ in range(40):
            await office.wrong(1)
        await office.clock.sleep(MAX_DELAY)
        assert await office.enters()

    in_office(story)


@cheap
def test_failed_attempts_from_another_network_lock_nobody_out() -> None:
    async def story(office: Office) -> None:
        await office.wrong(50, network=ELSEWHERE)
        assert not await office.enters(network=ELSEWHERE)
        assert await office.enters(network=HOME)

    in_office(story)


@cheap
def test_a_hundred_concurrent_guesses_are_counted_one_by_one() -> None:
    async def story(office: Office) -> None:
        guesses = [office.enters("wrong") for _ in range(99)]
        assert not any(await asyncio.gather(*guesses, office.enters()))
        mine = [judged for judged in office.workers.judged if "AAAAAAAA" not in judged]
        assert len(mine) == FREE_FAILURES

    in_office(story)


@cheap
def test_many_concurrent_correct_logins_all_succeed() -> None:
    async def story(office: Office) -> None:
        assert all(await asyncio.gather(*(office.enters() for _ in range(20))))

    in_office(story)


@pytest.mark.parametrize("scale", [1.0, 10_000.0])
def test_a_token_is_valid_until_its_expiry_and_not_a_second_longer(scale: float) -> None:
    async def story(office: Office) -> None:
        user, token = await office.logins.login(EMAIL, PASSWORD, HOME)
        assert (user.email, token.expires_at - office.clock.now()) == (EMAIL, LIFETIME)
        assert await office.known(token.text)
        await office.clock.sleep(LIFETIME.total_seconds() - 0.5)
        assert await office.known(token.text)
        await office.clock.sleep(0.5)
        assert not await office.known(token.text)

    in_office(story, scale=scale)


def test_a_disabled_users_tokens_and_keys_stop_within_a_second_and_no_others() -> None:
    async def story(office: Office) -> None:
        user, token = await office.logins.login(EMAIL, PASSWORD, HOME)
        own = (await office.keys.create("p1", "ci", "user", user.id)).text
        other = (await office.keys.create("p1", "ci", "user")).text
        assert [await office.known(text) for text in (token.text, own, other)] == [True] * 3
        assert await office.users.disable(EMAIL)
        await office.clock.sleep(1.0)
        assert [await office.known(text) for text in (token.text, own, other)] == [False, False, True]
        assert not await office.enters()

    in_office(story)


def test_a_user_who_is_enabled_again_can_log_in_and_their_keys_work_again() -> None:
    async def story(office: Office) -> None:
        user, _ = await office.logins.login(EMAIL, PASSWORD, HOME)
        own = (await office.keys.create("p1", "ci", "user", user.id)).text
        await office.users.disable(EMAIL)
        await office.clock.sleep(1.0)
        assert await office.users.enable(EMAIL.upper())
        await office.clock.sleep(1.0)
        assert await office.known(own)
        assert await office.enters()
        assert not await office.users.enable("nobody@example.org")

    in_office(story)


def test_a_changed_password_invalidates_the_users_tokens_and_no_others() -> None:
    async def story(office: Office) -> None:
        _, other = await office.logins.login(EMAIL, PASSWORD, HOME)
        tokens = []
        for password in ("first password", "first password", "second password"):
            await office.users.ensure_admin("boss@example.org", password, "default")
            tokens.append((await office.logins.login("boss@example.org", password, HOME))[1])
            await office.clock.sleep(1.0)
        assert [await office.known(token.text) for token in (*tokens, other)] == [False, False, True, True]

    in_office(story)


def test_a_token_without_a_password_digest_is_invalid() -> None:
    async def story(office: Office) -> None:
        _, token = await office.logins.login(EMAIL, PASSWORD, HOME)
        claims = jwt.decode(token.text, "s" * 32, algorithms=["HS256"], options={"verify_exp": False})
        assert await office.known(jwt.encode(claims, "s" * 32, algorithm="HS256"))
        for cred in ("", "\ud800", 7, None):
            assert not await office.known(jwt.encode(claims | {"cred": cred}, "s" * 32, algorithm="HS256"))
        del claims["cred"]
        assert not await office.known(jwt.encode(claims, "s" * 32, algorithm="HS256"))

    in_office(story)


def test_a_user_exists_once_in_every_spelling_of_the_email() -> None:
    async def story(office: Office) -> None:
        with pytest.raises(UserExists):
            await office.users.create(EMAIL.upper(), "another one", project="p2", role="admin")
        assert [user.project for user in await office.users.list()] == ["p1"]
        assert not await office.users.disable("nobody@example.org")

    in_office(story)


def test_the_configured_admin_is_created_once_and_gets_a_changed_password() -> None:
    async def story(office: Office) -> None:
        for password in ("first password", "first password", "second password"):
            await office.users.ensure_admin("boss@example.org", password, "default")
        boss = [user for user in await office.users.list() if user.email == "boss@example.org"]
        assert [(user.role, user.project) for user in boss] == [("admin", "default")]
        assert await office.enters("second password", email="boss@example.org")
        assert not await office.enters("first password", email="boss@example.org")

    in_office(story)

"""Logins and sessions of the dashboard at several servers on one database."""

from gpuproxy.adapters.system import SystemRandom
from gpuproxy.edge.web.sessions import IDLE_SECONDS, MAX_OF_ONE, RULES, Sessions
from gpuproxy.identity.kept_sessions import KeptSessions
from gpuproxy.identity.logins import FIRST_DELAY, FREE_FAILURES, Logins
from gpuproxy.identity.passwords import Passwords
from gpuproxy.identity.tokens import Tokens
from gpuproxy.identity.users import Users
from gpuproxy.model.errors import Unauthenticated
from gpuproxy.store import shared
from gpuproxy.store.sqlite.database import SqliteDatabase
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import InlineWorkers, SeededRandom

EMAIL, PASSWORD, HOME, ELSEWHERE = "me@example.org", "correct horse", "192.0.2.1", "198.51.100.7"
KEY = {"x-api-key": "gp-secret"}


async def enters(logins: Logins, password: str = PASSWORD, network: str = HOME) -> bool:
    try:
        await logins.login(EMAIL, password, network)
    except Unauthenticated:
        return False
    return True


async def offices(clock: VirtualClock, db: SqliteDatabase, number: int) -> list[Logins]:
    passwords = Passwords(InlineWorkers())
    users = Users(db, SeededRandom(1), passwords)
    await users.ensure_admin(EMAIL, PASSWORD, "default")
    tokens = Tokens("x" * 32, clock)
    return [Logins(users, passwords, tokens, clock, shared=db) for _ in range(number)]


def test_failures_at_all_servers_count_together_and_only_for_their_network() -> None:
    async def story(clock: VirtualClock) -> None:
        servers = await offices(clock, SqliteDatabase(":memory:", clock.now, threads=False), 3)
        for attempt in range(FREE_FAILURES):
            assert not await enters(servers[attempt % 3], "wrong")
        assert [await enters(server) for server in servers] == [False] * 3
        assert await enters(servers[0], network=ELSEWHERE)
        await clock.sleep(FIRST_DELAY + 0.1)
        assert await enters(servers[1])

    run_virtual(story)


def test_a_success_at_one_server_forgets_the_failures_at_all() -> None:
    async def story(clock: VirtualClock) -> None:
        db = SqliteDatabase(":memory:", clock.now, threads=False)
        servers = await offices(clock, db, 2)
        for _ in range(FREE_FAILURES - 1):
            assert not await enters(servers[0], "wrong")
        assert await enters(servers[1])
        assert await db.read(lambda tx: shared.with_prefix(tx, "login:")) == ()

    run_virtual(story)


def dashboards(clock: VirtualClock, db: SqliteDatabase, number: int) -> list[Sessions]:
    return [Sessions(clock, SystemRandom(), KeptSessions(db, clock, RULES)) for _ in range(number)]


def test_a_session_of_one_server_is_known_at_the_others_with_its_form_secret() -> None:
    async def story(clock: VirtualClock) -> None:
        here, there = dashboards(clock, SqliteDatabase(":memory:", clock.now, threads=False), 2)
        token = await here.begin(KEY, "key-1")
        first, second = await here.known(token), await there.known(token)
        assert first is not None
        assert second is not None
        assert (second.metadata, second.csrf, second.owner) == (KEY, first.csrf, "key-1")
        assert await there.known("another") is None
        assert await there.known("") is None

    run_virtual(story)


def test_a_session_that_ends_at_one_server_is_over_at_all() -> None:
    async def story(clock: VirtualClock) -> None:
        here, there = dashboards(clock, SqliteDatabase(":memory:", clock.now, threads=False), 2)
        token = await here.begin(KEY, "key-1")
        session, copy = await here.known(token), await there.known(token)
        assert session is not None
        assert copy is not None
        await here.finish(session)
        assert await there.known(token) is None
        assert not copy.open

    run_virtual(story)


def test_sessions_end_and_are_limited_in_the_database_too() -> None:
    async def story(clock: VirtualClock) -> None:
        db = SqliteDatabase(":memory:", clock.now, threads=False)
        here, there = dashboards(clock, db, 2)
        tokens = []
        for _ in range(MAX_OF_ONE + 1):
            tokens.append(await here.begin(KEY, "key-1"))
            await clock.sleep(1)
        assert await there.known(tokens[0]) is None
        assert await there.known(tokens[-1]) is not None
        await clock.sleep(IDLE_SECONDS + 1)
        assert await there.known(tokens[-1]) is None
        await here.begin(KEY, "key-1")
        assert len(await db.read(lambda tx: shared.with_prefix(tx, "session:"))) == 1

    run_virtual(story)


def test_the_database_has_neither_the_cookie_nor_the_credentials() -> None:
    async def story(clock: VirtualClock) -> None:
        db = SqliteDatabase(":memory:", clock.now, threads=False)
        [here] = dashboards(clock, db, 1)
        token = await here.begin(KEY, "key-1")
        session = await here.known(token)
        assert session is not None
        stored = str(await db.read(lambda tx: [dict(row) for row in tx.fetch("SELECT * FROM shared")]))
        assert token not in stored
        assert "gp-secret" not in stored
        assert session.csrf not in stored

    run_virtual(story)

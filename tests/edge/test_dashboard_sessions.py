"""Sessions of the dashboard in virtual time: when they end, and how many there are."""

from datetime import UTC, datetime

from gpuproxy.adapters.system import SystemRandom
from gpuproxy.edge.web import sessions
from gpuproxy.edge.web.sessions import Session, Sessions


class Clock:
    """A clock that stands still until it is told."""

    scale = 60.0

    def __init__(self) -> None:
        self.real = 1000.0

    def now(self) -> datetime:
        return datetime(2026, 6, 12, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.real * self.scale

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("sessions never wait")


def opened(kept: Sessions, owner: str = "key-1") -> tuple[str, Session]:
    return kept.open({"x-api-key": "secret-key"}, owner)


def test_a_session_that_is_not_used_ends_and_one_that_is_used_goes_on() -> None:
    clock = Clock()
    kept = Sessions(clock, SystemRandom())
    idle, used = opened(kept)[0], opened(kept)[0]
    clock.real += sessions.IDLE_SECONDS
    assert kept.find(used)
    clock.real += 1
    assert kept.find(idle) is None
    assert kept.find(used)


def test_no_session_is_older_than_a_week_however_much_it_is_used() -> None:
    clock = Clock()
    kept = Sessions(clock, SystemRandom())
    token, session = opened(kept)
    while clock.real - 1000 < sessions.MAX_SECONDS - sessions.IDLE_SECONDS:
        clock.real += sessions.IDLE_SECONDS
        assert kept.find(token)
    clock.real += sessions.IDLE_SECONDS + 1
    assert kept.find(token) is None
    assert not session.open


def test_one_owner_has_so_many_sessions_and_ends_its_own_oldest_only() -> None:
    kept = Sessions(Clock(), SystemRandom())
    other = opened(kept, "key-2")[0]
    tokens = [opened(kept)[0] for _ in range(sessions.MAX_OF_ONE + 1)]
    assert kept.find(tokens[0]) is None
    assert all(kept.find(token) for token in (*tokens[1:], other))


def test_neither_the_token_nor_the_credentials_are_in_what_is_printed() -> None:
    kept = Sessions(Clock(), SystemRandom())
    token, session = opened(kept)
    assert token not in repr(session)
    assert "secret-key" not in repr(session)
    assert session.csrf not in repr(session)
    assert token not in "".join(kept._sessions)


def test_tokens_and_form_secrets_are_never_the_same() -> None:
    kept = Sessions(Clock(), SystemRandom())
    made = [opened(kept) for _ in range(50)]
    assert len({text for token, session in made for text in (token, session.csrf)}) == 100

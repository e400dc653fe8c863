"""Who may call, kept in the database of this machine: API keys and users, beside a running server or without one."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from gpuproxy.adapters.system import SystemRandom, Threads
from gpuproxy.app.local_database import with_database
from gpuproxy.config.settings import ConfigError, Settings
from gpuproxy.identity.key_rings import KeyRing
from gpuproxy.identity.passwords import Passwords
from gpuproxy.identity.users import UserExists, Users
from gpuproxy.model.users import Role
from gpuproxy.store.keys import KeyRow
from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.store.users import UserRow

T = TypeVar("T")


def create_key(settings: Settings, name: str, role: Role, project: str) -> str:
    """Make an API key in the database; the key is shown once."""
    return _with_keys(settings, lambda ring: ring.create(project, name, role), may_create=True).text


def list_keys(settings: Settings) -> tuple[KeyRow, ...]:
    """All API keys of the database."""
    return _with_keys(settings, lambda ring: ring.list(None))


def revoke_key(settings: Settings, key_id: str) -> bool:
    """False when there is no such key."""
    return _with_keys(settings, lambda ring: ring.revoke(None, key_id))


def create_user(settings: Settings, email: str, password: str, *, role: Role, project: str) -> UserRow:
    """Make a user; raises ConfigError when there is one with this address."""
    try:
        return _with_users(
            settings, lambda book: book.create(email, password, project=project, role=role), may_create=True
        )
    except UserExists as error:
        raise ConfigError(str(error)) from None


def list_users(settings: Settings) -> tuple[UserRow, ...]:
    """Everybody who is or was allowed to log in."""
    return _with_users(settings, lambda book: book.list())


def set_password(settings: Settings, email: str, password: str) -> bool:
    """False when there is no such user."""
    return _with_users(settings, lambda book: book.set_password(email, password))


def disable_user(settings: Settings, email: str) -> bool:
    """False when there is no such user."""
    return _with_users(settings, lambda book: book.disable(email))


def enable_user(settings: Settings, email: str) -> bool:
    """False when there is no such user."""
    return _with_users(settings, lambda book: book.enable(email))


def _with_keys(settings: Settings, work: Callable[[KeyRing], Awaitable[T]], *, may_create: bool = False) -> T:
    return with_database(settings, lambda db: work(KeyRing(db, SystemRandom())), may_create=may_create)


def _with_users(settings: Settings, work: Callable[[Users], Awaitable[T]], *, may_create: bool = False) -> T:
    def book(db: SqliteDatabase) -> Awaitable[T]:
        return work(Users(db, SystemRandom(), Passwords(Threads())))

    return with_database(settings, book, may_create=may_create)

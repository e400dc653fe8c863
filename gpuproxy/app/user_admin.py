"""Administration of API keys and users in the database of this machine. The server may be running or not."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from gpuproxy.adapters.system import SystemRandom, Threads
from gpuproxy.app.local_database import with_database
from gpuproxy.app.opening import OpenDatabase
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.identity.key_rings import KeyRing, NewKey
from gpuproxy.identity.passwords import Passwords
from gpuproxy.identity.users import UserExists, Users
from gpuproxy.model.users import Role
from gpuproxy.store.keys import KeyRow
from gpuproxy.store.users import UserRow

T = TypeVar("T")


def create_key(settings: Settings, name: str, role: Role, project: str) -> NewKey:
    """Create an API key. Its text is not stored and can't be read again."""
    return _with_keys(settings, lambda ring: ring.create(project, name, role), may_create=True)


def list_keys(settings: Settings) -> tuple[KeyRow, ...]:
    """All API keys of the database, revoked ones included."""
    return _with_keys(settings, lambda ring: ring.list(None))


def revoke_key(settings: Settings, key_id: str) -> bool:
    """Revoke a key. False if there is no such key."""
    return _with_keys(settings, lambda ring: ring.revoke(None, key_id))


def create_user(settings: Settings, email: str, password: str, *, role: Role, project: str) -> UserRow:
    """Create a user. Raises ConfigError if there is one with this email address."""
    try:
        return _with_users(
            settings, lambda users: users.create(email, password, project=project, role=role), may_create=True
        )
    except UserExists as error:
        raise ConfigError(str(error)) from None


def list_users(settings: Settings) -> tuple[UserRow, ...]:
    """All users, disabled ones included."""
    return _with_users(settings, lambda users: users.list())


def set_password(settings: Settings, email: str, password: str) -> bool:
    """Change a user's password. False if there is no such user."""
    return _with_users(settings, lambda users: users.set_password(email, password))


def disable_user(settings: Settings, email: str) -> bool:
    """Disable a user. False if there is no such user."""
    return _with_users(settings, lambda users: users.disable(email))


def enable_user(settings: Settings, email: str) -> bool:
    """Enable a disabled user. False if there is no such user."""
    return _with_users(settings, lambda users: users.enable(email))


def _with_keys(settings: Settings, work: Callable[[KeyRing], Awaitable[T]], *, may_create: bool = False) -> T:
    return with_database(settings, lambda db: work(KeyRing(db, SystemRandom())), may_create=may_create)


def _with_users(settings: Settings, work: Callable[[Users], Awaitable[T]], *, may_create: bool = False) -> T:
    def on_users(db: OpenDatabase) -> Awaitable[T]:
        return work(Users(db, SystemRandom(), Passwords(Threads())))

    return with_database(settings, on_users, may_create=may_create)

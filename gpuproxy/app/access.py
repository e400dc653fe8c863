"""Authentication: API keys, SSH keys, users and logins in one database, and the secrets that they need."""

from dataclasses import dataclass, field

from gpuproxy.adapters.system import Threads
from gpuproxy.app import deployment
from gpuproxy.app.deployment import WrongDatabase
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.identity.key_rings import KeyRing, SshKeyRing
from gpuproxy.identity.logins import Logins
from gpuproxy.identity.passwords import Passwords
from gpuproxy.identity.tokens import Tokens
from gpuproxy.identity.users import Users
from gpuproxy.ports import Clock, Database, Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The parts of authentication. `secret` signs login tokens; `fingerprint_key` hashes demands."""

    keys: KeyRing
    ssh_keys: SshKeyRing
    users: Users
    logins: Logins
    tokens: Tokens
    secret: str = field(repr=False)
    fingerprint_key: bytes = field(repr=False)


async def open_access(settings: Settings, db: Database, clock: Clock, random: Random) -> Access:
    """Open the keys, users and logins of the database, and create the configured admin. Raises ConfigError."""
    configured = settings.jwt_secret.get_secret_value() if settings.jwt_secret else ""
    secret = await deployment.token_secret(db, random, configured)
    passwords, tokens = Passwords(Threads()), Tokens(secret, clock)
    users = Users(db, random, passwords)
    if settings.admin_password is not None:
        await users.ensure_admin(
            settings.admin_email, settings.admin_password.get_secret_value(), deployment.DEFAULT_PROJECT
        )
    try:
        fingerprint_key = await deployment.fingerprint_key(db, random, settings.fingerprint_key_file)
    except WrongDatabase as error:
        raise ConfigError(str(error)) from error
    return Access(
        keys=KeyRing(db, random),
        ssh_keys=SshKeyRing(db, random),
        users=users,
        logins=Logins(users, passwords, tokens, clock, shared=None if db.exclusive else db),
        tokens=tokens,
        secret=secret,
        fingerprint_key=fingerprint_key,
    )

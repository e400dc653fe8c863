"""The users of a deployment: create, find, change, disable, enable."""

from gpuproxy.identity.passwords import Passwords
from gpuproxy.model.errors import Taken
from gpuproxy.model.users import Role, normalized_email
from gpuproxy.ports import Database, Random, Tx
from gpuproxy.store import users
from gpuproxy.store.users import UserRow


class UserExists(Exception):
    """The email address is already in use; the text is for the operator."""


class Users:
    """The users who can log in."""

    def __init__(self, db: Database, random: Random, passwords: Passwords) -> None:
        self._db = db
        self._random = random
        self._passwords = passwords

    async def create(self, email: str, password: str, *, project: str, role: Role) -> UserRow:
        """Create a user; raises UserExists."""
        hashed = await self._passwords.hashed(password)
        user_id = f"user-{self._random.token(8)}"

        def write(tx: Tx) -> UserRow:
            row = UserRow(
                id=user_id,
                email=normalized_email(email),
                project=project,
                role=role,
                password=hashed,
                created_at=tx.now(),
            )
            users.insert(tx, row)
            return row

        try:
            return await self._db.write(write)
        except Taken:
            text = f"A user with the email address {normalized_email(email)} already exists."
            raise UserExists(text) from None

    async def ensure_admin(self, email: str, password: str, project: str) -> None:
        """Create this admin, or give the existing user this password; an existing user keeps role and project."""
        found = await self.by_email(email)
        if found is None:
            await self.create(email, password, project=project, role="admin")
        elif not await self._passwords.match(found.password, password):
            await self.set_password(email, password)

    async def find(self, user_id: str) -> UserRow | None:
        """The user with this id; None if there is none or it is disabled."""
        found = await self._db.read(lambda tx: users.by_id(tx, user_id))
        return None if found is None or found.disabled_at is not None else found

    async def by_email(self, email: str) -> UserRow | None:
        """The user with this email address, also a disabled one; None if there is none."""
        return await self._db.read(lambda tx: users.by_email(tx, normalized_email(email)))

    async def list(self) -> tuple[UserRow, ...]:
        """All users, newest first."""
        return await self._db.read(users.listed)

    async def set_password(self, email: str, password: str) -> bool:
        """Change a password; the user's tokens become invalid. False if there is no such user."""
        hashed = await self._passwords.hashed(password)
        return await self._db.write(lambda tx: users.set_password(tx, normalized_email(email), hashed))

    async def disable(self, email: str) -> bool:
        """Disable a user: the user's tokens and API keys stop working. False if there is no such user."""
        return await self._db.write(lambda tx: users.disable(tx, normalized_email(email)))

    async def enable(self, email: str) -> bool:
        """Enable a user: API keys and unexpired tokens work again. False if there is no such user."""
        return await self._db.write(lambda tx: users.enable(tx, normalized_email(email)))

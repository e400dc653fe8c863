"""The users of a deployment: made, found, changed, disabled and enabled."""

from gpuproxy.identity.passwords import Passwords
from gpuproxy.model.users import Role, folded
from gpuproxy.ports import Database, Random, Tx
from gpuproxy.store import users
from gpuproxy.store.users import UserRow


class UserExists(Exception):
    """The email address is taken; the text is for the operator."""


class UserBook:
    """Everybody who may log in."""

    def __init__(self, db: Database, random: Random, passwords: Passwords) -> None:
        self._db = db
        self._random = random
        self._passwords = passwords

    async def create(self, email: str, password: str, *, project: str, role: Role) -> UserRow:
        """A new user; raises UserExists."""
        hashed = await self._passwords.hashed(password)
        user_id = f"user-{self._random.token(8)}"

        def write(tx: Tx) -> UserRow:
            if users.by_email(tx, folded(email)) is not None:
                raise UserExists(f"There is a user {folded(email)} already.")
            row = UserRow(
                id=user_id, email=folded(email), project=project, role=role, password=hashed, created_at=tx.now()
            )
            users.insert(tx, row)
            return row

        return await self._db.write(write)

    async def ensure_admin(self, email: str, password: str, project: str) -> None:
        """There is such a user with this password; one who exists keeps role and project."""
        found = await self.by_email(email)
        if found is None:
            await self.create(email, password, project=project, role="admin")
        elif not await self._passwords.match(found.password, password):
            await self.set_password(email, password)

    async def find(self, user_id: str) -> UserRow | None:
        """The user, unless disabled."""
        found = await self._db.read(lambda tx: users.by_id(tx, user_id))
        return None if found is None or found.disabled_at is not None else found

    async def by_email(self, email: str) -> UserRow | None:
        """The user, disabled or not."""
        return await self._db.read(lambda tx: users.by_email(tx, folded(email)))

    async def list(self) -> tuple[UserRow, ...]:
        """Everybody, newest first."""
        return await self._db.read(users.listed)

    async def set_password(self, email: str, password: str) -> bool:
        """Their tokens end, for each was given for a password; False when there is no such user."""
        hashed = await self._passwords.hashed(password)
        return await self._db.write(lambda tx: users.set_password(tx, folded(email), hashed))

    async def disable(self, email: str) -> bool:
        """Their tokens and the keys that they made stop working; False when there is no such user."""
        return await self._db.write(lambda tx: users.disable(tx, folded(email)))

    async def enable(self, email: str) -> bool:
        """What disabling ended works again, if it has not expired; False when there is no such user."""
        return await self._db.write(lambda tx: users.enable(tx, folded(email)))

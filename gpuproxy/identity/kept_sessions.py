"""Sessions of the dashboard in the database, so that each of several servers knows them.

A row has no credentials that anybody could use: they are encrypted with a key that only the browser's cookie has.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
from cryptography.fernet import Fernet, InvalidToken

from gpuproxy.ports import Clock, Database, Tx
from gpuproxy.store import shared
from gpuproxy.store.rows import micros, moment
from gpuproxy.store.shared import Told

_PREFIX = "session:"
_TOUCHED_AFTER = timedelta(minutes=10)
"""The use of a session is stored again after this time."""


class _Secrets(msgspec.Struct, frozen=True):
    metadata: dict[str, str]
    csrf: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A session as it is stored."""

    owner: str
    metadata: Mapping[str, str] = field(repr=False)
    csrf: str = field(repr=False)
    age: float
    """Real seconds since it began."""
    idle: float
    """Real seconds since it was used, at some server, as far as that is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How long sessions live, in real seconds, and how many there may be."""

    idle: float
    most: float
    all: int
    of_one: int


class KeptSessions:
    """The sessions of all servers."""

    def __init__(self, db: Database, clock: Clock, rules: Rules) -> None:
        self._db = db
        self._scale = clock.scale
        self._rules = rules

    async def keep(self, token: str, digest: str, owner: str, *, metadata: Mapping[str, str], csrf: str) -> None:
        """Store a session that begins. `token`: of its cookie, which is not stored; `digest`: what names it."""
        secrets = msgspec.json.encode(_Secrets(dict(metadata), csrf))
        body = _cipher(token).encrypt(secrets).decode()

        def write(tx: Tx) -> None:
            self._make_room(tx, owner)
            now = micros(tx.now())
            shared.tell(tx, _PREFIX + digest, json.dumps({"owner": owner, "began": now, "used": now}), body)

        await self._db.write(write)

    async def find(self, token: str, digest: str) -> Kept | None:
        """The session of a cookie's token; None if it has ended. Its use is noted now and then."""
        name = _PREFIX + digest
        row, body, now = await self._db.read(lambda tx: (shared.told(tx, name), shared.body(tx, name), tx.now()))
        if row is None:
            return None
        head = json.loads(row.head)
        age, idle = (self._seconds(now, head[key]) for key in ("began", "used"))
        if age > self._rules.most or idle > self._rules.idle:
            await self.end(digest)
            return None
        try:
            secrets = msgspec.json.decode(_cipher(token).decrypt(body.encode()), type=_Secrets)
        except InvalidToken:
            return None
        if idle > _TOUCHED_AFTER.total_seconds():
            await self._db.write(lambda tx: self._touch(tx, name))
        return Kept(owner=head["owner"], metadata=secrets.metadata, csrf=secrets.csrf, age=age, idle=idle)

    async def end(self, digest: str) -> None:
        """End a session at all servers. Repeating it changes nothing."""
        await self._db.write(lambda tx: shared.forget(tx, _PREFIX + digest))

    def _touch(self, tx: Tx, name: str) -> None:
        row = shared.told(tx, name)
        if row is not None:
            shared.tell(tx, name, json.dumps(json.loads(row.head) | {"used": micros(tx.now())}))

    def _make_room(self, tx: Tx, owner: str) -> None:
        """Forget what is over, and the oldest sessions if there are too many."""
        rows = sorted(shared.with_prefix(tx, _PREFIX), key=_began)
        left: list[Told] = []
        for row in rows:
            head = json.loads(row.head)
            over = self._seconds(tx.now(), head["used"]) > self._rules.idle
            if over or self._seconds(tx.now(), head["began"]) > self._rules.most:
                shared.forget(tx, row.name)
            else:
                left.append(row)
        own = [row for row in left if json.loads(row.head)["owner"] == owner]
        surplus = [*own[: max(0, len(own) - self._rules.of_one + 1)], *left[: max(0, len(left) - self._rules.all + 1)]]
        for row in surplus:
            shared.forget(tx, row.name)

    def _seconds(self, now: datetime, at: int) -> float:
        return (now - moment(at)).total_seconds() / self._scale


def _began(row: Told) -> int:
    return int(json.loads(row.head)["began"])


def _cipher(token: str) -> Fernet:
    key = hashlib.sha256(b"gpuproxy session\0" + token.encode(errors="surrogatepass")).digest()
    return Fernet(base64.urlsafe_b64encode(key))

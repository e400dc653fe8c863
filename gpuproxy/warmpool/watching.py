"""Watching a pool: a snapshot or what has happened since a token, then every change, in order.

Each transition is shown once, as it is stored. What changes between two transitions, such as the progress, is shown as
it is when the watcher wakes. The token is the number of the last transition.
"""

from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial

from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.model.pools import PoolId, PoolView
from gpuproxy.ports import Database, Tx
from gpuproxy.store import pools

_LONGEST_TOKEN = 18
_ALL = 10_000


async def watch(db: Database, pool_id: PoolId, resume_token: str) -> AsyncGenerator[tuple[str, PoolView], None]:
    """The changes, each with the token to resume after it. Ends when its caller stops. Raises InvalidArgument."""
    seen, shown = _number(resume_token), ""
    async with db.watch(pools.topic(pool_id)) as wakeups:
        if not resume_token:
            seen = (await db.read(partial(_now, pool_id))).seq
        while True:
            view, news = await db.read(partial(_since, pool_id, seen))
            for each in news:
                seen = each.seq
                yield str(seen), each
            face = _face(view)
            if face != shown and not news:
                yield str(view.seq), view
            shown = face
            await wakeups.wait()


def _number(token: str) -> int:
    if token and not (token.isascii() and token.isdecimal() and len(token) <= _LONGEST_TOKEN):
        raise InvalidArgument([Violation("resume_token", "is not a token of this server")])
    return int(token or 0)


def _now(pool_id: PoolId, tx: Tx) -> PoolView:
    return pools.view(tx, pools.get(tx, pool_id))


def _since(pool_id: PoolId, seen: int, tx: Tx) -> tuple[PoolView, list[PoolView]]:
    """The pool, and what it was after each transition since `seen`."""
    view = _now(pool_id, tx)
    news = [
        replace(
            view,
            pool=replace(view.pool, state=each.after),
            transitions=tuple(one for one in view.transitions if one.seq <= each.seq),
            seq=each.seq,
        )
        for each in pools.transitions(tx, pool_id, seen, limit=_ALL)
    ]
    return view, news


def _face(view: PoolView) -> str:
    """What a watcher sees, without the times of checks, which change every minute."""
    pool = replace(view.pool, version=0, looked_at=None, checked_at=None, step_began_at=None)
    return repr((pool, view.incident, [(each.id, each.state) for each in view.machines]))

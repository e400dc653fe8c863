"""The load-balancing strategy in force: the project's own, else the global one, else the configured default."""

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument, PermissionDenied, Violation
from gpuproxy.model.strategies import STRATEGIES, strategy_by_name
from gpuproxy.ports import Database, Tx
from gpuproxy.store import audit, meta


def strategy_for(tx: Tx, project: str, default: str, asked: str = "") -> str:
    """The strategy's wire name."""
    return asked or meta.project_strategy(tx, project) or meta.read(tx, meta.GLOBAL_STRATEGY) or default


class StrategySetting:
    """Reads and changes the strategy in force."""

    def __init__(self, db: Database, default: str) -> None:
        self._db = db
        self._default = default

    async def in_force(self, caller: Caller) -> tuple[str, str, tuple[str, ...]]:
        """The strategy in force, its scope ("project" or "global"), and the names of all strategies."""

        def read(tx: Tx) -> tuple[str, str, tuple[str, ...]]:
            scope = "global" if meta.project_strategy(tx, caller.project) is None else "project"
            return strategy_for(tx, caller.project, self._default), scope, tuple(STRATEGIES)

        return await self._db.read(read)

    async def choose(self, caller: Caller, name: str, scope: str) -> None:
        """Set the strategy of the project or, for admins, of all projects without one of their own."""
        strategy_by_name(name)
        if scope not in ("", "project", "global"):
            raise InvalidArgument([Violation("scope", f"{scope!r} is neither project nor global")])
        if scope == "global" and caller.role != "admin":
            raise PermissionDenied("Only an admin sets the global strategy.")
        project = "" if scope == "global" else caller.project

        def write(tx: Tx) -> None:
            if scope == "global":
                meta.write(tx, meta.GLOBAL_STRATEGY, name)
            else:
                meta.set_project_strategy(tx, project, name)
            audit.record(tx, caller, "strategy_set", scope or "project", name, project=project)

        await self._db.write(write)

"""What must be true of warm pools at every moment, and what is measured of their failovers.

The audit reads the rows and the market directly, after each request, each event of the market and each commit. It does
not use the program's own functions, because a mistake in them would hide errors.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gpuproxy.ports import HttpRequest
from gpuproxy.sandbox.market.instances import Instance, Phase
from gpuproxy.sandbox.protocol.plan import Plan
from tests import databases
from tests.simulation.audit import Violation
from tests.world import World

WORKED = 10.0
"""A primary that has answered for so many seconds is a working one: losing it to a failover is a false failover."""
_USED = 60.0
"""A volume has data once a machine that mounts it has worked for so many seconds."""
_OPEN = ("requested", "unknown", "releasing")
_LIVE = "SELECT id, kind, instance_id FROM leases WHERE state NOT IN ('released', 'failed', 'lost')"
_WISHED = ("test", "drill", "manual")


@dataclass(frozen=True, slots=True)
class Outage:
    """One failover of a lost primary, in seconds."""

    seconds: float
    """From the last good probe."""
    ours: float
    """All but the marketplace's start."""


class PoolAudit:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.market = world.sandbox.market
        self.may_delete: set[int] = set()
        """Volumes whose deletion was asked for."""
        self.used: set[int] = set()
        """Volumes with data."""
        self.losses: Counter[str] = Counter()
        """How often each machine stopped working, by contract."""
        self._crowded: set[int] = set()
        self._phases: dict[int, Phase] = {}
        self._ran_at: dict[str, list[float]] = {}
        """When each machine began to run, on the market's clock."""
        self._worked: dict[int, float] = {}
        self._incidents: set[tuple[str, int]] = set()
        self._broken: Violation | None = None
        self.log: list[object] = []
        self._follow()

    def break_with(self, violation: Violation) -> None:
        """Make the next check raise the violation. Raised here, the program could catch it."""
        self._broken = self._broken or violation

    def safety(self) -> None:
        """Raise what was found since the last call."""
        self.world.sandbox.tick()
        self.look()
        if self._broken is not None:
            raise self._broken

    def rows(self, sql: str, *params: object) -> list[Any]:
        """The rows of a query, directly from the database."""
        return databases.named(self.world.db, sql, params)

    def pools(self) -> list[dict[str, Any]]:
        """All pools as they are stored."""
        return [json.loads(row["data"]) for row in self.rows("SELECT data FROM pools ORDER BY machine_id")]

    def contract(self, lease_id: str | None) -> str | None:
        """The marketplace's id of a lease's machine."""
        found = self.rows("SELECT instance_id FROM leases WHERE id = ?", lease_id)
        return found[0]["instance_id"] if found else None

    def instance(self, lease_id: str | None) -> Instance | None:
        """The machine of a lease at the market; None if it is gone, or never was."""
        contract = self.contract(lease_id)
        return self.market.instances.get(int(contract)) if contract is not None and contract.isdecimal() else None

    # -- at every moment

    def look(self) -> None:
        """The checks after every change of the market."""
        for one in self.market.instances.values():
            self._follow_machine(one)
        self._count_writers()
        self._check_volumes()

    def _follow_machine(self, one: Instance) -> None:
        now = self.market.now
        if one.phase is Phase.RUNNING and self._phases.get(one.id) is not Phase.RUNNING:
            self._ran_at.setdefault(str(one.id), []).append(now)
        self._phases[one.id] = one.phase
        if one.works_since is not None:
            self._worked[one.id] = one.works_since
            if now - one.works_since >= _USED:
                self.used.update(one.launch.volumes)
        elif one.id in self._worked:
            del self._worked[one.id]
            self.losses[str(one.id)] += 1

    def _count_writers(self) -> None:
        """A machine whose stop was reported and not done is no writer here: then the lock alone can help."""
        running = Counter[int]()
        for one in self.market.instances.values():
            if one.phase is Phase.RUNNING and not one.pretends:
                running.update(list(one.launch.volumes))
        crowded = {volume for volume, count in running.items() if count > 1}
        for volume in crowded - self._crowded:
            writers = [one.id for one in self.market.instances.values() if one.phase is Phase.RUNNING]
            self.break_with(Violation("writers", f"volume {volume} has writers {writers} at {self.market.now:.1f}"))
        self._crowded = crowded

    def _check_volumes(self) -> None:
        for volume in self.market.volumes.all.values():
            if volume.most_workloads > 1:
                self.break_with(Violation("workloads", f"volume {volume.id} had two workloads"))
            if volume.deleted_at is not None and volume.id in self.used and volume.id not in self.may_delete:
                self.break_with(Violation("volume", f"volume {volume.id} was deleted, and nobody asked for that"))

    def _note_cleanups(self) -> None:
        """The volumes of a pool that its owner cleans up may be deleted, now or later."""
        for row in self.rows("SELECT data FROM pools WHERE wanted = 'gone'"):
            pool = json.loads(row["data"])
            if not pool.get("keep_volume"):
                sql = "SELECT instance_id FROM leases WHERE kind = 'volume' AND reservation_id = ?"
                found = [(each["instance_id"] or "").rpartition(".")[2] for each in self.rows(sql, pool["ledger"])]
                self.may_delete |= {int(number) for number in found if number}

    def _follow(self) -> None:
        """Hear every request, every event of the market and every commit."""
        sandbox, receive, at = self.world.sandbox, self.world.sandbox.receive, self.market.at

        def received(request: HttpRequest) -> Plan:
            sandbox.tick()
            self.look()
            judged = request.method in ("PUT", "DELETE") and "/instances/" in request.url
            before = self._working() if judged else {}
            plan = receive(request)
            self.look()
            if before:
                self._judge_effects(request, before)
            return plan

        def timed(when: float, happen: Callable[[], None]) -> None:
            def happened() -> None:
                happen()
                self.look()

            at(when, happened)

        sandbox.receive = received  # type: ignore[method-assign]
        self.market.at = timed  # type: ignore[method-assign]
        self.world.after_writes += (self._judge_incidents, self._note_cleanups)
        self.world.overhear.append(self._hear)

    def _hear(self, request: HttpRequest) -> None:
        self.log.append((round(self.world.clock.monotonic(), 6), request.method, request.url.split("?")[0]))

    def _working(self) -> dict[int, float]:
        now = self.market.now
        return {
            one.id: now - one.works_since
            for one in self.market.instances.values()
            if one.works_since is not None and now - one.works_since >= WORKED
        }

    def _judge_effects(self, request: HttpRequest, before: dict[int, float]) -> None:
        """A request of the program must not end a working primary, unless somebody asked for that."""
        for number, worked in before.items():
            one = self.market.instances.get(number)
            if one is None or one.works_since is None:
                pool = self._pool_of_primary(number)
                if pool is not None and not self._wished(pool):
                    what = f"{request.method} {request.url} ended primary {number}, which had worked for {worked:.0f} s"
                    self.break_with(Violation("false", what))

    def _pool_of_primary(self, number: int) -> dict[str, Any] | None:
        return next((pool for pool in self.pools() if self.contract(pool.get("primary")) == str(number)), None)

    def _wished(self, pool: dict[str, Any]) -> bool:
        if pool.get("wanted") != "supervised" or pool["state"] in ("disabled", "provisioning"):
            return True
        found = self.rows("SELECT data FROM pool_incidents WHERE pool_id = ? AND ended_at IS NULL", pool["id"])
        return any(json.loads(row["data"])["kind"] in _WISHED for row in found)

    def _judge_incidents(self) -> None:
        """An incident must not begin while its primary works."""
        for row in self.rows("SELECT data FROM pool_incidents WHERE ended_at IS NULL"):
            incident = json.loads(row["data"])
            key = (incident["pool_id"], incident["number"])
            if key in self._incidents:
                continue
            self._incidents.add(key)
            self.world.sandbox.tick()
            one = self.instance(incident["primary"])
            worked = None if one is None or one.works_since is None else self.market.now - one.works_since
            if incident["kind"] == "failure" and worked is not None and worked >= WORKED:
                self.break_with(
                    Violation("false", f"incident {key} began, but its primary had worked for {worked:.0f} s")
                )

    # -- at rest

    def unfinished(self) -> str:
        """Why the world is not at rest yet; "" once it is."""
        self.world.sandbox.tick()
        if stuck := [(r["id"], r["state"]) for r in self.rows("SELECT id, state FROM leases") if r["state"] in _OPEN]:
            return f"open: {stuck}"
        if self.world.sandbox._late:
            return "the market still has something to do"
        busy = [p["machine_id"] for p in self.pools() if p["state"] in ("searching", "provisioning", "failover")]
        if busy or any(pool.get("wanted") == "gone" for pool in self.pools()):
            return f"pools at work: {busy}"
        return self.orphans()

    def orphans(self) -> str:
        """How books and market differ; "" if they do not."""
        live = self.rows(_LIVE)
        owned = {(row["kind"], (row["instance_id"] or "").rpartition(".")[2]) for row in live}
        there = {("machine", str(number)) for number in self.market.instances}
        there |= {("volume", str(one.id)) for one in self.market.volumes.all.values() if one.deleted_at is None}
        if owned == there:
            return ""
        return (
            f"at the market and not in the books {sorted(there - owned)}, the other way round {sorted(owned - there)}"
        )

    def final(self) -> None:
        """The checks once everything is at rest."""
        self.safety()
        if told := self.orphans():
            raise Violation("orphan", told)
        metered = {row["lease_id"] for row in self.rows("SELECT lease_id FROM meters WHERE closed_at IS NULL")}
        billed = {row["id"] for row in self.rows(_LIVE)}
        if metered != billed:
            raise Violation("broken", f"open meters {metered} are not what exists {billed}")
        for pool in self.pools():
            self._one_incident_one_failover(pool)

    def _one_incident_one_failover(self, pool: dict[str, Any]) -> None:
        promoted = [each for each in self.incidents(pool["id"]) if each.get("outcome") == "promoted"]
        if len(promoted) != pool.get("failover_count", 0):
            raise Violation(
                "twice", f"{pool['id']}: {len(promoted)} promotions, failover_count {pool['failover_count']}"
            )
        failures = Counter(self.contract(each["primary"]) for each in promoted if each["kind"] == "failure")
        for contract, count in failures.items():
            if count > self.losses[contract or ""]:
                raise Violation(
                    "twice", f"machine {contract}: lost {self.losses[contract or '']} times, {count} failovers"
                )

    def incidents(self, pool_id: str) -> list[dict[str, Any]]:
        """A pool's incidents, oldest first."""
        found = self.rows("SELECT data FROM pool_incidents WHERE pool_id = ? ORDER BY number", pool_id)
        return [json.loads(row["data"]) for row in found]

    def outages(self) -> list[Outage]:
        """The outages of the failovers that ended with a promotion and were not asked for."""
        return [
            self._outage(each)
            for pool in self.pools()
            for each in self.incidents(pool["id"])
            if each.get("outcome") == "promoted" and each["kind"] == "failure" and each.get("last_good_at")
        ]

    def _outage(self, incident: dict[str, Any]) -> Outage:
        """The marketplace's part is from the start that was sent to the moment when the machine ran."""
        at = {
            key: datetime.fromisoformat(value).timestamp() for key, value in incident.items() if value and _is_at(key)
        }
        seconds, started = at["ended_at"] - at["last_good_at"], at.get("start_sent_at", at["ended_at"])
        ran = [each for each in self._ran_at.get(self.contract(incident["successor"]) or "", []) if each >= started]
        theirs = max(0.0, min(ran[:1] or [started]) - started)
        return Outage(seconds, max(0.0, seconds - theirs))

    def digest(self) -> list[object]:
        """Everything that happened, in order."""
        told = self.rows("SELECT pool_id, seq, at, event, reason FROM pool_transitions ORDER BY pool_id, seq")
        return [*self.log, *(tuple(row.values()) for row in told)]


def _is_at(key: str) -> bool:
    return key.endswith("_at")

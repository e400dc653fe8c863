"""What must be true of two marketplaces at once, of their machines and of the money that was paid in advance.

The audit reads the rows and the market directly, and not with the program's own functions.
"""

import json
import re
from collections import Counter
from typing import Any

from gpuproxy.ports import HttpRequest, HttpResponse
from gpuproxy.sandbox.market.prepaid.bookings import Stage
from tests import databases
from tests.simulation.audit import Violation
from tests.world import World, plain_label

_TERMINAL = ("released", "failed", "lost")
_OPEN_LEASES = "SELECT id, state FROM leases WHERE state IN ('requested', 'unknown', 'releasing')"
_OPEN_BOOKINGS = "SELECT * FROM bookings WHERE state IN ('intended', 'sent', 'unknown')"
_OWNED = "SELECT instance_id FROM leases WHERE state NOT IN ('released', 'failed', 'lost')"
_HELD = ("requested", "unknown", "starting", "active", "parked")
_ENDED = ("destroyed", "completed", "failed", "terminating")
_CREATE = re.compile(r"/api/v0/asks/\d+/")
_DEPLOY = "/enterprise/v1/io-cloud/vmaas/deploy"
_EXTEND = re.compile(r"/enterprise/v1/io-cloud/vmaas/deployment/([^/]+)/extend")
_GRACE = 300.0
_REFUND_SECONDS = 120.0
"""Our estimate of a refund may differ by the price of so much time: the end is seen by polling."""


class MarketsAudit:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ended: set[str] = set()
        """Reservations and contracts whose end was asked for and promised."""
        self.log: list[object] = []
        self._sent: Counter[str] = Counter()
        self._surplus: dict[str, float] = {}
        self._broken: Violation | None = None
        world.overhear.append(self._hear)
        world.overhear_answers.append(self._hear_answer)

    def rows(self, sql: str, *params: object) -> list[Any]:
        """The rows of a query, directly from the database."""
        return databases.named(self.world.db, sql, params)

    def alive(self) -> dict[str, dict[str, Any]]:
        """What exists at both markets, by contract."""
        return {
            str(each["id"]): each
            for each in self.world.market["instances"]
            if each["destroyed_at"] is None and each["status"] not in _ENDED
        }

    def break_with(self, violation: Violation) -> None:
        """Make the next check raise the violation."""
        self._broken = self._broken or violation

    def safety(self) -> None:
        """The checks after every step."""
        if self._broken is not None:
            raise self._broken
        leases = self.rows("SELECT * FROM leases ORDER BY created_at, id")
        self._counts(leases)
        by_label = {row["label"]: row for row in leases}
        labels: Counter[str] = Counter()
        for contract, machine in self.alive().items():
            label = plain_label(machine["label"])
            labels[label] += 1
            self._machine(contract, machine, by_label.get(label))
        if twins := [label for label, number in labels.items() if number > 1]:
            raise Violation("twin", f"several machines run under {twins}")

    def unrest(self) -> str:
        """What is not finished yet; "" if everything is at rest."""
        if found := self.rows(_OPEN_LEASES):
            return f"leases are open: {found}"
        if found := self.rows(_OPEN_BOOKINGS):
            return f"bookings are open: {found}"
        owned, alive = {row["instance_id"] for row in self.rows(_OWNED)}, set(self.alive())
        return "" if owned == alive else f"alive but not owned {alive - owned}, owned but not alive {owned - alive}"

    def final(self) -> None:
        """The checks once everything is at rest."""
        self.safety()
        for row in self.rows("SELECT * FROM leases WHERE state IN ('starting', 'active')"):
            if row["expires_at"] is not None and row["expires_at"] / 1e6 < self.world.clock.now().timestamp() - _GRACE:
                raise Violation("leak", f"{row['id']} is kept past its end")
            if row["instance_id"] in self.ended or row["reservation_id"] in self.ended:
                raise Violation("leak", f"{row['id']} is kept although its end was promised")
        self._money()

    def digest(self) -> list[object]:
        """Everything that happened, in order."""
        return [*self.log, *(tuple(row.values()) for row in self.rows("SELECT * FROM events ORDER BY seq"))]

    def _hear(self, request: HttpRequest) -> None:
        path = request.url.removeprefix("http://sandbox").split("?")[0]
        self.log.append((round(self.world.clock.monotonic(), 6), request.method, path))
        if (label := _label_of(request, path)) is not None:
            row = self.rows("SELECT call_started_at FROM leases WHERE label = ?", label)
            if not row or row[0]["call_started_at"] is None:
                self.break_with(Violation("leak", f"a create of {label} was sent without a committed intent"))
            self._sent[label] += 1
            if self._sent[label] > 1:
                self.break_with(Violation("twin", f"the create of {label} was sent {self._sent[label]} times"))
        elif request.method == "POST" and (found := _EXTEND.fullmatch(path)):
            sql = (
                "SELECT b.state FROM bookings b JOIN leases l ON l.id = b.lease_id "
                "WHERE l.instance_id = ? AND b.kind = 'extend' AND b.state = 'sent'"
            )
            if not self.rows(sql, found.group(1)):
                self.break_with(Violation("leak", f"{found.group(1)} was extended without a committed intent"))

    def _hear_answer(self, request: HttpRequest, response: HttpResponse) -> None:
        """A rate-limited create does not count as sent."""
        path = request.url.removeprefix("http://sandbox").split("?")[0]
        if response.status == 429 and (label := _label_of(request, path)) is not None:
            self._sent[label] -= 1

    def _counts(self, leases: list[Any]) -> None:
        held: Counter[str] = Counter()
        for row in leases:
            if row["state"] in _HELD:
                held[row["reservation_id"]] += row["num_gpus"]
        for reservation in self.rows("SELECT id, count FROM reservations"):
            if held[reservation["id"]] > reservation["count"]:
                text = f"{reservation['id']} holds {held[reservation['id']]} of {reservation['count']}"
                raise Violation("twin", text)

    def _machine(self, contract: str, machine: dict[str, Any], row: Any) -> None:
        if row is None or row["call_started_at"] is None:
            raise Violation("leak", f"{contract} runs under {machine['label']}, whose create was never recorded")
        if row["provider"] != machine["provider"]:
            raise Violation(
                "leak", f"{contract} of {machine['provider']} has the label of a lease at {row['provider']}"
            )
        if row["state"] in _TERMINAL:
            appeared = self._surplus.setdefault(contract, self.world.clock.monotonic())
            if row["instance_id"] is not None:
                raise Violation("twin", f"{contract} runs although {row['id']} is {row['state']}")
            if self.world.clock.monotonic() - appeared > _GRACE:
                raise Violation("leak", f"{contract} came after the end of {row['id']} and lives too long")

    def _money(self) -> None:
        """What the books say was paid in advance is what the marketplace took."""
        booked: Counter[str] = Counter()
        for row in self.rows("SELECT * FROM bookings WHERE state = 'confirmed'"):
            booked[row["lease_id"]] += row["amount"]
        for row in self.rows("SELECT * FROM settlements"):
            booked[row["lease_id"]] += row["amount"]
        for row in self.rows("SELECT * FROM leases WHERE booked_hours > 0 AND instance_id IS NOT NULL"):
            machine = self.world.sandbox.prepaid.bookings[row["instance_id"]]
            more = booked[row["id"]] - machine.billed
            tolerance = 0 if not machine.refunded else round(machine.paid / machine.hours * _REFUND_SECONDS / 3600)
            if machine.stage is Stage.FAILED:  # nothing tells what the marketplace gives back for it
                tolerance = machine.paid
            if not -tolerance - machine.hours <= more <= tolerance + machine.hours:
                text = f"{row['id']} cost {machine.billed} (paid {machine.paid}), and the books say {booked[row['id']]}"
                raise Violation("money", text)


def _label_of(request: HttpRequest, path: str) -> str | None:
    """The label of a create; None for other requests."""
    body = request.body or b"{}"
    if request.method == "PUT" and _CREATE.fullmatch(path):
        return plain_label(json.loads(body).get("label"))
    if request.method == "POST" and path == _DEPLOY:
        return str(json.loads(body).get("resource_private_name"))
    return None

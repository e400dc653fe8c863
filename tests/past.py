"""Books with a long history, made at once: reservations that ended, with everything that such a one leaves behind."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from gpuproxy.model.leases import Lease, LeaseId, LeaseState, ReservationId
from gpuproxy.model.money import Micro, accrued
from gpuproxy.model.offers import HostKey, OfferId, ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Decision, Pick, Reservation, ReservationState
from gpuproxy.store.rows import lease_columns, micros, reservation_columns
from gpuproxy.store.sqlite.driver import sqlite3
from tests.flat_leases import flat_lease

PROJECTS = ("p1", "p2", "p3", "p4")
RAN = timedelta(minutes=90)
_HOSTS = 64
_PRICE, _DISK = Micro(400_000), Micro(9_000)
_MINUTE = 60_000_000
_Rows = dict[str, list[dict[str, Any]]]


def fill(connection: sqlite3.Connection, number: int, since: datetime, until: datetime) -> None:
    """Insert the rows of `batches`."""
    for rows in batches(number, since, until):
        connection.execute("BEGIN")
        for table, values in rows.items():
            known = {column[1] for column in connection.execute(f"PRAGMA table_info({table})")}
            names = [name for name in values[0] if name in known]  # an older schema has fewer columns
            sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
            connection.executemany(sql, [tuple(row[name] for name in names) for row in values])
        connection.execute("COMMIT")


def batches(number: int, since: datetime, until: datetime) -> Iterator[_Rows]:
    """The rows of so many finished reservations by table; each one's machine ran for 90 minutes. Evenly over a time.

    Each has its events, its meters (disk, then all) and two equal readings of its charge.
    """
    step = (until - since) / max(number, 1)
    reservation, lease = reservation_columns(_reservation(since)), lease_columns(_lease(since))
    lease["charge_final"] = 1
    for first in range(0, number, 5_000):
        rows: _Rows = {"reservations": [], "leases": [], "events": [], "meters": [], "settlements": []}
        for at in range(first, min(first + 5_000, number)):
            _one(rows, at, micros(since + at * step), reservation, lease)
        yield rows


def _one(rows: _Rows, at: int, began: int, reservation: dict[str, Any], lease: dict[str, Any]) -> None:
    project, name = PROJECTS[at % len(PROJECTS)], f"{at:08d}"
    ready, ended = began + _MINUTE, began + RAN // timedelta(microseconds=1)
    times = {"created_at": began, "project": project}
    own = {"id": f"res-{name}", "request_id": f"r{name}", "fingerprint": f"k1:{name:>064}"}
    rows["reservations"].append({**reservation, **times, **own, "settled_at": ready, "answered_at": ready})
    of = {"id": f"lease-{name}-01", "reservation_id": f"res-{name}", "label": f"gpuproxy-{name}", "host": _host(at)}
    seen = {"call_started_at": began, "started_at": began, "seen_at": began, "ready_at": ready, "ended_at": ended}
    rows["leases"].append({**lease, **times, **of, **seen, "instance_id": f"{30_000_000 + at}"})
    rows["events"] += _events(7 * at, (began, ready, ended), project, name)
    used = {"lease_id": of["id"], "project": project}
    rows["meters"].append({**used, "opened_at": began, "closed_at": ready, "rate": _DISK})
    rows["meters"].append({**used, "opened_at": ready, "closed_at": ended, "rate": _PRICE})
    metered = accrued(_DISK, timedelta(minutes=1)) + accrued(_PRICE, RAN - timedelta(minutes=1))
    for hours, amount in ((2, 1_500), (26, 0)):
        paid = {"at": ended + hours * 60 * _MINUTE, "charged": metered + 1_500, "metered": metered, "amount": amount}
        rows["settlements"].append({**used, **paid})


def _events(seq: int, times: tuple[int, int, int], project: str, name: str) -> Iterator[dict[str, Any]]:
    began, ready, ended = times
    settled = {"settled": True, "closing": "", "expires_at": None}
    lease = {"instance_id": str(30_000_000 + seq // 7), "price": _PRICE}
    story: tuple[tuple[int, str, str, dict[str, Any]], ...] = (
        (began, "changed", "pending", {**settled, "settled": False}),
        (began, "requested", "requested", {"offer_id": "1", "price": _PRICE}),
        (began, "created", "starting", lease),
        (ready, "ready", "active", lease),
        (ready, "changed", "active", settled),
        (ended, "release", "releasing", {**lease, "reason": Reason.RELEASED}),
        (ended, "gone", "released", {**lease, "reason": Reason.RELEASED}),
    )
    for number, (at, event, state, data) in enumerate(story, start=1):
        of = "" if event == "changed" else f"lease-{name}-01"
        yield {
            "seq": seq + number, "at": at, "project": project, "reservation_id": f"res-{name}", "lease_id": of,
            "event": event, "state": state, "data": json.dumps(data),
        }  # fmt: skip


def _host(at: int) -> HostKey:
    return HostKey(f"vast.ai/{at % _HOSTS}")


def _reservation(at: datetime) -> Reservation:
    pick = Pick(offer_id=OfferId("1"), host=_host(1), num_gpus=1, price=_PRICE, why="the fewest of our machines")
    decision = Decision(
        strategy="least_connections", considered=20_000, eligible=800, rejected=(("price", 9_000), ("vram", 9_200)),
        sizes=(1,), picks=(pick,), top=(pick, pick, pick), cheapest_alternative=Micro(390_000),
    )  # fmt: skip
    return Reservation(
        id=ReservationId(""), project="", request_id="", fingerprint="", count=1, least=0, keep=True,
        strategy="least_connections", labels=(("team", "vision"),), created_at=at, expires_at=None, version=9,
        replace_unready=True, ready_timeout_s=600.0, key_id="key-abcd2345", closing=Reason.RELEASED,
        decision=decision, message="1 GPU reserved.", state=ReservationState.RELEASED,
    )  # fmt: skip


def _lease(at: datetime) -> Lease:
    return flat_lease(
        id=LeaseId(""), reservation_id=ReservationId(""), project="", attempt=1, provider=ProviderName("vast.ai"),
        account="vast-1", label="", offer_id=OfferId("1"), host=HostKey(""), conflict_keys=("vast.ai/m/1/0",),
        gpu_model="RTX 4090", num_gpus=1, vram_gb=24, location="SE", price=_PRICE, disk_price=_DISK,
        ceiling=Micro(5_000_000), state=LeaseState.RELEASED, version=14, created_at=at, billed="all",
        destroy_tries=1, reason=Reason.RELEASED, status_message="success, running ubuntu", ssh_host="ssh5.vast.ai",
        ssh_port=22, ready_evidence="ssh greets", disk_gb=8.0, reliability_ppm=998_000, verified=True, cuda_max=12.4,
    )  # fmt: skip

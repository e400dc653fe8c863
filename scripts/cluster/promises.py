"""What must be true after all incidents: of the market, of the database, and of what callers were answered.

Each function returns figures for the report, or complaints. The database is read directly, not through a server.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from psycopg.rows import dict_row

from scripts.cluster.callers import Round
from scripts.cluster.calls import Record
from scripts.cluster.history import Key, Stored, Truth
from scripts.cluster.postgres import Cluster

_RENTED = ("starting", "active", "parked", "releasing")
_OVER = ("released", "failed", "lost")
_BY_CALLERS = ("RELEASED", "DESTROYED", "EXPIRED", "")


def rows(cluster: Cluster, sql: str) -> list[dict[str, Any]]:
    """The rows of a statement, from the primary."""
    with cluster.primary.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.encode()).fetchall()


def drift(cluster: Cluster, alive: Iterable[str]) -> str:
    """The differences between the machines of the market and those of the database, and what is not concluded yet.

    "" if there are none.
    """
    alive = set(alive)
    leases = rows(cluster, "SELECT id, state, instance_id FROM leases WHERE state NOT IN ('released','failed','lost')")
    known = {str(lease["instance_id"]) for lease in leases if lease["state"] in _RENTED and lease["instance_id"]}
    open_ = [f"{lease['state']} {lease['id']}" for lease in leases if lease["instance_id"] is None]
    open_ += [f"releasing {lease['id']}" for lease in leases if lease["state"] == "releasing"]
    calls = rows(cluster, "SELECT id FROM reservations WHERE settled_at IS NULL")
    if alive == known and not open_ and not calls:
        return ""
    return (
        f"market only {sorted(alive - known)}, database only {sorted(known - alive)}, open {open_}, "
        f"calls {[call['id'] for call in calls]}"
    )


def truth(cluster: Cluster, now: int) -> Truth:
    """What the database has stored."""
    found = Truth(read=now)
    reasons: defaultdict[str, set[str]] = defaultdict(set)
    for lease in rows(cluster, "SELECT reservation_id, label, state, reason FROM leases"):
        found.labels[lease["label"]] = lease["reservation_id"]
        reasons[lease["reservation_id"]].add(lease["reason"] if lease["state"] in _OVER else "")
    for each in rows(
        cluster,
        "SELECT r.project, r.id, pair ->> 1 AS request_id "
        "FROM reservations r, json_array_elements(r.labels::json) AS pair "
        "WHERE r.request_id = '' AND pair ->> 0 = 'rid' ORDER BY r.created_at",
    ):
        found.freed.setdefault((each["project"], each["request_id"]), []).append(each["id"])
    for each in rows(
        cluster,
        "SELECT project, request_id, id, closing, coalesce(failure::json->>'reason', '') AS failure FROM reservations "
        "WHERE request_id <> ''",
    ):
        by_itself = each["closing"] == "" and not reasons[each["id"]] & set(_BY_CALLERS)
        found.stored[each["project"], each["request_id"]] = Stored(each["id"], each["failure"], by_itself)
    return found


def of_request_ids(cluster: Cluster, record: Record, stored: dict[Key, Stored]) -> tuple[str, list[str]]:
    """Each request id has at most one reservation, and what was answered is there, with its machines."""
    wrong = [
        f"{row['project']}/{row['request_id']} has {row['number']} reservations"
        for row in rows(
            cluster,
            "SELECT project, request_id, count(*) AS number FROM reservations WHERE request_id <> '' "
            "GROUP BY project, request_id HAVING count(*) > 1",
        )
    ]
    machines: defaultdict[str, set[str]] = defaultdict(set)
    for lease in rows(cluster, "SELECT reservation_id, instance_id FROM leases WHERE instance_id IS NOT NULL"):
        machines[lease["reservation_id"]].add(str(lease["instance_id"]))
    answered = [call for call in record.of("reserve") if call.result == "answered"]
    for call in answered:
        known = stored.get((call.project, call.request_id))
        if known is None or known.id != call.reservation_id:
            wrong.append(f"{call.request_id} was answered with {call.reservation_id}, and the database has {known}")
        elif missing := call.contracts - machines[known.id]:
            wrong.append(f"{call.request_id} was answered with {sorted(missing)}, which the database does not have")
    figures = f"{len(answered)} answers looked up, {len(stored)} reservations, {len(wrong)} wrong"
    return figures, wrong


def of_releases(record: Record, alive: Iterable[str]) -> tuple[str, list[str]]:
    """Every machine that a caller has released is gone."""
    gone: set[str] = set()
    machines = {call.reservation_id: call.contracts for call in record.of("reserve") if call.result == "answered"}
    for call in record.of("release", "destroy"):
        if call.result == "answered":
            gone |= call.contracts or machines.get(call.reservation_id, frozenset())
    left = sorted(gone & set(alive))
    return f"{len(gone)} machines released by callers, {len(left)} of them alive", [f"{each} is alive" for each in left]


def of_events(cluster: Cluster) -> tuple[str, list[str]]:
    """The events are one sequence without gaps, their times never go back, and they end as the leases are."""
    counted = rows(
        cluster, "SELECT count(*) AS n, coalesce(max(seq), 0) AS last, coalesce(min(seq), 1) AS first FROM events"
    )[0]
    wrong = []
    if counted["n"] != counted["last"] - counted["first"] + 1:
        wrong.append(f"there are {counted['n']} events with the numbers {counted['first']} to {counted['last']}")
    back = rows(
        cluster,
        "SELECT count(*) AS n FROM (SELECT at, lag(at) OVER (ORDER BY seq) AS before FROM events) AS e "
        "WHERE at < before",
    )[0]["n"]
    if back:
        wrong.append(f"the time goes back {back} times")
    other = rows(
        cluster,
        "SELECT l.id, l.state, e.state AS said FROM leases l JOIN LATERAL (SELECT state FROM events "
        "WHERE lease_id = l.id ORDER BY seq DESC LIMIT 1) e ON true WHERE e.state <> l.state",
    )
    wrong += [f"the last event of {row['id']} says {row['said']}, and it is {row['state']}" for row in other]
    return f"{counted['n']} events, {len(wrong)} wrong", wrong


def of_ledger(cluster: Cluster) -> tuple[str, list[str]]:
    """Debits equal credits, in each transfer, and each balance is the sum of its entries."""
    uneven = rows(cluster, "SELECT transfer FROM ledger GROUP BY transfer HAVING sum(amount) <> 0 OR count(*) < 2")
    balances = rows(
        cluster,
        "SELECT account FROM (SELECT account, balance, 0 AS entry FROM ledger_balances "
        "UNION ALL SELECT account, 0, amount FROM ledger) AS parts GROUP BY account "
        "HAVING sum(balance) <> sum(entry)",
    )
    total = rows(cluster, "SELECT count(*) AS n, coalesce(sum(amount), 0) AS rest FROM ledger")[0]
    wrong = [f"transfer {row['transfer']} is uneven" for row in uneven]
    wrong += [f"the balance of {row['account']} is not the sum of its entries" for row in balances]
    if total["rest"]:
        wrong.append(f"debits and credits differ by {total['rest']}")
    return f"{total['n']} entries, debits - credits = {total['rest']}", wrong


def of_limits(cluster: Cluster, rounds: Sequence[Round], state: dict[str, Any]) -> tuple[str, list[str]]:
    """By the market's own record, no project ever had more machines at once than fit, nor was billed more."""
    projects = {row["label"]: row["project"] for row in rows(cluster, "SELECT label, project FROM leases")}
    limits = {row["subject"]: row["amount"] for row in rows(cluster, "SELECT subject, amount FROM spend_limits")}
    machines: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for machine in state["instances"]:
        machines[projects.get(_plain(machine["label"]), "")].append(machine)
    wrong = [f"the database does not know the machine {machine['id']}" for machine in machines[""]]
    full = 0
    for each in rounds:
        most = _most_at_once(machines[each.project])
        full += most == each.limit
        if most > each.limit:
            wrong.append(f"{each.project} had {most} machines at once, and {each.limit} fit")
        billed = sum(machine["billed_micro_usd"] for machine in machines[each.project])
        if each.kind == "budget" and billed > limits[each.project]:
            wrong.append(f"{each.project} was billed {billed} with a limit of {limits[each.project]}")
    budgets = sum(each.kind == "budget" for each in rounds)
    figures = f"{budgets} budgets and {len(rounds) - budgets} quotas, {full} of them used up, {len(wrong)} exceeded"
    return figures, wrong


def _most_at_once(machines: Iterable[dict[str, Any]]) -> int:
    """The most machines that were alive at one time."""
    changes = []
    for machine in machines:
        changes.append((machine["created_at"], 1))
        if machine["destroyed_at"] is not None:
            changes.append((machine["destroyed_at"], -1))
    alive = most = 0
    for _, change in sorted(changes):
        alive += change
        most = max(most, alive)
    return most


def twins(state: dict[str, Any]) -> list[str]:
    """Labels that more than one machine ever had."""
    labels = Counter(_plain(one["label"]) for one in state["instances"])
    return sorted(label for label, count in labels.items() if count > 1)


def _plain(label: str | None) -> str:
    """A label without the end that it may carry."""
    return str(label).partition(".")[0]

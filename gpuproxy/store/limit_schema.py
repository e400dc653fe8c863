"""The tables of migration 15, which has spending limits, quotas, and the money that is held. See `migrations`.

`KEPT` is migration 20: the disk of a machine that is kept stopped after its end is held too.

The trigger is a second line behind `limits.admit`. It adds up the holds by itself, rounded down, and relies on the
program only for what is spent, which the program must have read in the same unit of work.
"""

_HOUR_MS = 3_600_000


def _priced(rate: str, microseconds: str) -> str:
    """The price of a duration, rounded down. Products beyond 63 bits become floats, which are exact enough here."""
    return f"({rate} * (max(0, {microseconds}) / 1000) / {_HOUR_MS})"


def _held(h: str, now: str, *, kept: bool) -> str:
    """A lower bound of `model.limits.held` for the hold `h` and the limit `l`: all that was paid counts at the peak."""
    begin = f"coalesce({h}.paid_until, {now})"
    in_window = _priced(f"{h}.rate", f"{h}.until - {begin}")
    most = _priced(f"{h}.peak", f"l.length + {h}.lead - min({now} - {h}.since, l.length) - {h}.lead")
    in_month = _priced(f"{h}.rate", f"min({h}.until, l.posted_until + {h}.lead) - max({begin}, l.posted_since)")
    if kept:
        last, first = f"min({h}.kept_until, l.posted_until + {h}.lead)", f"max({begin}, l.posted_since, {h}.until)"
        in_window += " + " + _priced(f"{h}.kept_rate", f"{h}.kept_until - max({begin}, {h}.until)")
        in_month += " + " + _priced(f"{h}.kept_rate", f"{last} - {first}")
    sliding = f"min({in_window}, max(0, {most} - {h}.booked))"
    return f"({h}.extra + {h}.booked + CASE WHEN l.length > 0 THEN {sliding} ELSE {in_month} END)"


_COVERS = (
    "(l.scope = 'global' OR (l.scope = 'project' AND l.subject = {h}.project) "
    "OR (l.scope = 'key' AND l.subject = {h}.key_id))"
)


def _triggers(raises: str, *, kept: bool) -> tuple[str, str]:
    """The second line. `raises`: the condition of an update that raises a hold."""
    held_now, held_new, held_old = (_held(h, "new.checked_at", kept=kept) for h in ("h", "new", "old"))
    covers, covers_new = _COVERS.format(h="h"), _COVERS.format(h="new")
    held_sum = f"(SELECT sum({held_now}) FROM spend_holds h WHERE {covers})"  # noqa: S608
    exceeded = f"""SELECT raise(ABORT, 'spending limit exceeded') FROM spend_limits l
    WHERE l.policy <> 'warn' AND {covers_new}
    AND {held_new} > {{before}}
    AND (l.posted_at <> new.checked_at OR l.posted + {held_sum} > l.amount);"""  # noqa: S608
    return (
        f"""CREATE TRIGGER spend_hold_inserted AFTER INSERT ON spend_holds
        WHEN new.forced = 0 AND new.until > new.since BEGIN {exceeded.format(before="0")} END""",
        f"""CREATE TRIGGER spend_hold_raised AFTER UPDATE ON spend_holds
        WHEN new.forced = 0 AND ({raises}) BEGIN {exceeded.format(before=held_old)} END""",
    )


_RAISES = """new.until > old.until OR new.rate > old.rate OR new.extra > old.extra
            OR new.booked > old.booked"""

STATEMENTS = (
    """CREATE TABLE spend_limits (
        id TEXT PRIMARY KEY, scope TEXT NOT NULL, subject TEXT NOT NULL, window TEXT NOT NULL,
        length INTEGER NOT NULL, amount INTEGER NOT NULL CHECK (amount > 0), policy TEXT NOT NULL,
        source TEXT NOT NULL, name TEXT NOT NULL, set_at INTEGER NOT NULL,
        posted INTEGER NOT NULL DEFAULT 0, posted_at INTEGER NOT NULL DEFAULT 0,
        posted_since INTEGER NOT NULL DEFAULT 0, posted_until INTEGER NOT NULL DEFAULT 0,
        near INTEGER NOT NULL DEFAULT 0) STRICT""",
    """CREATE TABLE quotas (
        project TEXT PRIMARY KEY, gpus INTEGER, rate INTEGER) STRICT""",
    """CREATE TABLE spend_holds (
        lease_id TEXT PRIMARY KEY REFERENCES leases (id), project TEXT NOT NULL, key_id TEXT NOT NULL,
        gpus INTEGER NOT NULL, rate INTEGER NOT NULL, peak INTEGER NOT NULL, since INTEGER NOT NULL,
        until INTEGER NOT NULL, paid_until INTEGER, booked INTEGER NOT NULL,
        extra INTEGER NOT NULL, lead INTEGER NOT NULL, checked_at INTEGER NOT NULL,
        forced INTEGER NOT NULL DEFAULT 0) STRICT""",
    "CREATE INDEX spend_holds_project ON spend_holds (project)",
    "CREATE INDEX bookings_unproven ON bookings (decided_at) WHERE state = 'unproven'",
    """INSERT INTO spend_holds (lease_id, project, key_id, gpus, rate, peak, since, until, paid_until, booked,
            extra, lead, checked_at)
        SELECT l.id, l.project, coalesce((SELECT key_id FROM reservations WHERE id = l.reservation_id), ''),
            CASE WHEN l.state = 'parked' THEN 0 ELSE l.num_gpus END,
            CASE WHEN l.state = 'parked' THEN l.disk_price ELSE l.price END, l.price,
            coalesce(l.call_started_at, l.created_at),
            coalesce(l.expires_at, coalesce(l.call_started_at, l.created_at) + 1),
            CASE WHEN l.instance_id IS NULL THEN coalesce(l.call_started_at, l.created_at)
                WHEN l.booked_hours > 0 THEN l.booked_until END,
            coalesce((SELECT sum(amount) FROM bookings b WHERE b.lease_id = l.id
                AND b.state IN ('intended', 'sent', 'unknown')), 0), 0, 0, 0
        FROM leases l WHERE l.state IN ('requested', 'unknown', 'starting', 'active', 'parked', 'releasing')""",
    *_triggers(_RAISES, kept=False),
)

KEPT = (
    "ALTER TABLE spend_holds ADD COLUMN kept_rate INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE spend_holds ADD COLUMN kept_until INTEGER NOT NULL DEFAULT 0",
    "DROP TRIGGER spend_hold_inserted",
    "DROP TRIGGER spend_hold_raised",
    """UPDATE spend_holds SET (kept_rate, kept_until) = (
            SELECT l.disk_price, l.expires_at + l.grace_s * 1000000 FROM leases l WHERE l.id = lease_id)
        WHERE lease_id IN (SELECT id FROM leases WHERE grace_s > 0 AND expires_at IS NOT NULL)""",
    """UPDATE spend_holds SET lead = max(lead, 3600000000 * (1 + (
            SELECT l.booked_hours FROM leases l WHERE l.id = lease_id))) WHERE lead > 0""",
    *_triggers(f"{_RAISES} OR new.kept_rate > old.kept_rate OR new.kept_until > old.kept_until", kept=True),
)

"""The tables of migration 9: sums over the database, and what is kept of deleted history. See `migrations`.

Triggers change the sums with the facts, in the same unit of work.
"""

_HOUR = 3_600_000_000


def _cost(row: str) -> str:
    """The cost of a closed meter as SQL: exactly `money.accrued`, up to a hundred million dollars per hour.

    An hour has 60,000 * 60,000 microseconds. The sum is split, and higher rates are cut off, so that no product exceeds
    63 bits: then SQLite would make it a float, and a meter that can't be closed would block a release.
    """
    lasted, rate = f"({row}.closed_at - {row}.opened_at)", f"min({row}.rate, 100000000000000)"
    rest = f"({rate} * ({lasted} % {_HOUR} / 60000) + {rate} * ({lasted} % 60000) / 60000) / 60000"
    return f"({rate} * ({lasted} / {_HOUR}) + {rest})"


def _hours(row: str) -> str:
    """The number of transactions of a closed meter as SQL: exactly `transactions.count`."""
    parts = f"({row}.closed_at - 1) / {_HOUR} - {row}.opened_at / {_HOUR} + 1"
    return f"(CASE WHEN {row}.closed_at > {row}.opened_at THEN {parts} ELSE 0 END)"


def _count(table: str, column: str, keys: str, values: str, step: str) -> str:
    """A statement that adds `step` to a counter, which begins at 0."""
    return (
        f"INSERT INTO {table} ({keys}, {column}) VALUES ({values}, {step}) "  # noqa: S608 - our own words
        f"ON CONFLICT ({keys}) DO UPDATE SET {column} = {column} + excluded.{column};"
    )


TABLES = (
    "ALTER TABLE meters ADD COLUMN project TEXT NOT NULL DEFAULT ''",
    "UPDATE meters SET project = (SELECT project FROM leases WHERE id = lease_id)",
    "ALTER TABLE settlements ADD COLUMN project TEXT NOT NULL DEFAULT ''",
    "UPDATE settlements SET project = (SELECT project FROM leases WHERE id = lease_id)",
    "ALTER TABLE leases ADD COLUMN charge_final INTEGER NOT NULL DEFAULT 0",
    """UPDATE leases SET charge_final = 1 WHERE id IN (
        SELECT lease_id FROM (
            SELECT lease_id, at, charged, lag(charged) OVER by_time AS earlier, lead(at) OVER by_time AS later
            FROM settlements WINDOW by_time AS (PARTITION BY lease_id ORDER BY at))
        WHERE later IS NULL AND charged = earlier AND at >= (SELECT ended_at FROM leases WHERE id = lease_id))""",
    """CREATE TABLE spent (
        id INTEGER PRIMARY KEY CHECK (id = 1), metered INTEGER NOT NULL DEFAULT 0, adjusted INTEGER NOT NULL DEFAULT 0,
        forgotten_metered INTEGER NOT NULL DEFAULT 0, forgotten_adjusted INTEGER NOT NULL DEFAULT 0) STRICT""",
    """CREATE TABLE lease_counts (
        provider TEXT NOT NULL, state TEXT NOT NULL, number INTEGER NOT NULL DEFAULT 0,
        forgotten INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (provider, state)) STRICT""",
    """CREATE TABLE reservation_counts (
        project TEXT NOT NULL, state TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (project, state)) STRICT""",
    "CREATE TABLE transaction_counts (project TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT",
    """CREATE TABLE verified_hosts (
        host TEXT PRIMARY KEY, provider TEXT NOT NULL, picks INTEGER NOT NULL,
        last_picked_at INTEGER NOT NULL) STRICT""",
    """CREATE TABLE verified_measured (
        host TEXT PRIMARY KEY, provider TEXT NOT NULL, gpu_model TEXT NOT NULL, response_ms REAL NOT NULL,
        sampled_at INTEGER, samples INTEGER NOT NULL, failures INTEGER NOT NULL, ejections INTEGER NOT NULL,
        ejected_until INTEGER) STRICT""",
    """CREATE TABLE forgotten_reservations (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, request_id TEXT NOT NULL, fingerprint TEXT NOT NULL,
        created_at INTEGER NOT NULL, ended_at INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE UNIQUE INDEX forgotten_request ON forgotten_reservations (project, request_id)
        WHERE request_id <> ''""",
    """CREATE TABLE forgotten_leases (
        label TEXT PRIMARY KEY, id TEXT NOT NULL, reservation_id TEXT NOT NULL, project TEXT NOT NULL,
        provider TEXT NOT NULL, account TEXT NOT NULL, instance_id TEXT, created_at INTEGER NOT NULL,
        ended_at INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
)

SUMS = (
    f"""INSERT INTO spent (id, metered, adjusted) VALUES (1,
        (SELECT coalesce(sum({_cost("m")}), 0) FROM meters m WHERE closed_at IS NOT NULL),
        (SELECT coalesce(sum(amount), 0) FROM settlements))""",  # noqa: S608
    "INSERT INTO lease_counts (provider, state, number) SELECT provider, state, count(*) FROM leases GROUP BY 1, 2",
    """INSERT INTO reservation_counts (project, state, number)
        SELECT project, state, count(*) FROM reservations GROUP BY 1, 2""",
    f"""INSERT INTO transaction_counts (project, number) SELECT project, sum(n) FROM (
        SELECT project, {_hours("m")} AS n FROM meters m WHERE closed_at IS NOT NULL
        UNION ALL SELECT project, 1 FROM settlements WHERE amount <> 0) GROUP BY 1""",  # noqa: S608
)

_REQUEST_ID_TAKEN = "UNIQUE constraint failed: reservations.project, reservations.request_id"
"""A request_id that was used before is in use for ever: the error is that of the unique index."""
_METER_CLOSED = (
    f"UPDATE spent SET metered = metered + {_cost('new')};"  # noqa: S608
    f"{_count('transaction_counts', 'number', 'project', 'new.project', _hours('new'))}"
)
TRIGGERS = (
    f"""CREATE TRIGGER meter_closed AFTER UPDATE OF closed_at ON meters
        WHEN old.closed_at IS NULL AND new.closed_at IS NOT NULL BEGIN {_METER_CLOSED} END""",
    f"""CREATE TRIGGER meter_inserted AFTER INSERT ON meters
        WHEN new.closed_at IS NOT NULL BEGIN {_METER_CLOSED} END""",
    f"""CREATE TRIGGER meter_forgotten AFTER DELETE ON meters WHEN old.closed_at IS NOT NULL BEGIN
        UPDATE spent SET forgotten_metered = forgotten_metered + {_cost("old")};
        UPDATE transaction_counts SET number = number - {_hours("old")} WHERE project = old.project; END""",  # noqa: S608
    f"""CREATE TRIGGER settlement_inserted AFTER INSERT ON settlements WHEN new.amount <> 0 BEGIN
        UPDATE spent SET adjusted = adjusted + new.amount;
        {_count("transaction_counts", "number", "project", "new.project", "1")} END""",  # noqa: S608
    """CREATE TRIGGER settlement_forgotten AFTER DELETE ON settlements WHEN old.amount <> 0 BEGIN
        UPDATE spent SET forgotten_adjusted = forgotten_adjusted + old.amount;
        UPDATE transaction_counts SET number = number - 1 WHERE project = old.project; END""",
    f"""CREATE TRIGGER lease_inserted AFTER INSERT ON leases BEGIN
        {_count("lease_counts", "number", "provider, state", "new.provider, new.state", "1")} END""",
    f"""CREATE TRIGGER lease_changed_state AFTER UPDATE OF state ON leases WHEN new.state <> old.state BEGIN
        UPDATE lease_counts SET number = number - 1 WHERE provider = old.provider AND state = old.state;
        {_count("lease_counts", "number", "provider, state", "new.provider, new.state", "1")} END""",  # noqa: S608
    """CREATE TRIGGER lease_forgotten AFTER DELETE ON leases BEGIN
        UPDATE lease_counts SET forgotten = forgotten + 1 WHERE provider = old.provider AND state = old.state; END""",
    """CREATE TRIGGER lease_ended_again AFTER UPDATE OF ended_at ON leases
        WHEN new.charge_final <> 0 AND new.ended_at IS NOT old.ended_at BEGIN
        UPDATE leases SET charge_final = 0 WHERE id = new.id; END""",
    f"""CREATE TRIGGER request_id_is_forgotten BEFORE INSERT ON reservations WHEN new.request_id <> '' AND EXISTS (
        SELECT 1 FROM forgotten_reservations WHERE project = new.project AND request_id = new.request_id)
        BEGIN SELECT raise(ABORT, '{_REQUEST_ID_TAKEN}'); END""",  # noqa: S608 - our own words
    f"""CREATE TRIGGER reservation_inserted AFTER INSERT ON reservations BEGIN
        {_count("reservation_counts", "number", "project, state", "new.project, new.state", "1")} END""",
    f"""CREATE TRIGGER reservation_changed_state AFTER UPDATE OF state ON reservations
        WHEN new.state <> old.state BEGIN
        UPDATE reservation_counts SET number = number - 1 WHERE project = old.project AND state = old.state;
        {_count("reservation_counts", "number", "project, state", "new.project, new.state", "1")} END""",  # noqa: S608
    """CREATE TRIGGER reservation_forgotten AFTER DELETE ON reservations BEGIN
        UPDATE reservation_counts SET number = number - 1 WHERE project = old.project AND state = old.state; END""",
)

INDEXES = (
    "DROP INDEX leases_live",
    """CREATE INDEX leases_live ON leases (provider, account, created_at, id)
        WHERE state IN ('requested', 'unknown', 'starting', 'active', 'parked', 'releasing')""",
    """CREATE INDEX leases_charge_due ON leases (provider, account, ended_at)
        WHERE charge_final = 0 AND instance_id IS NOT NULL AND ended_at IS NOT NULL""",
    "CREATE INDEX meters_newest ON meters (closed_at DESC, lease_id) WHERE closed_at IS NOT NULL",
    "CREATE INDEX meters_of_project ON meters (project, closed_at DESC, lease_id) WHERE closed_at IS NOT NULL",
    "CREATE INDEX settlements_newest ON settlements (at DESC, lease_id) WHERE amount <> 0",
    "CREATE INDEX settlements_of_project ON settlements (project, at DESC, lease_id) WHERE amount <> 0",
    "CREATE INDEX reservations_of_all ON reservations (created_at DESC, id)",
    "CREATE INDEX reservations_in_state ON reservations (project, state, created_at DESC, id)",
    "CREATE INDEX reservations_of_all_in_state ON reservations (state, created_at DESC, id)",
    """CREATE INDEX reservations_keyed ON reservations (created_at)
        WHERE request_id <> '' AND substr(fingerprint, 1, 3) = 'k1:'""",
)

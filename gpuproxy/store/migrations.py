"""The database schema as numbered migrations. A published migration never changes; new ones are appended.

Times are integer microseconds since 1970 (UTC), money is integer micro-dollars, lists and maps are JSON text, and the
program generates all ids. The lock on the database ensures that one process at a time migrates it.
"""

from sqlite_utils import Database, Migrations

from gpuproxy.store import booking_schema

migrations = Migrations("gpuproxy")

_FIRST = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    """CREATE TABLE api_keys (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, role TEXT NOT NULL, prefix TEXT NOT NULL,
        sha256 TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, revoked_at INTEGER) STRICT""",
    "CREATE TABLE projects (id TEXT PRIMARY KEY, strategy TEXT NOT NULL) STRICT",
    """CREATE TABLE accounts (
        provider TEXT NOT NULL, account TEXT NOT NULL, next_create_at INTEGER NOT NULL,
        PRIMARY KEY (provider, account)) STRICT""",
    """CREATE TABLE hosts (
        host TEXT PRIMARY KEY, provider TEXT NOT NULL, live INTEGER NOT NULL, picks INTEGER NOT NULL,
        last_picked_at INTEGER NOT NULL) STRICT""",
    """CREATE TABLE reservations (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, request_id TEXT NOT NULL, fingerprint TEXT NOT NULL,
        count INTEGER NOT NULL,
        least INTEGER NOT NULL, keep INTEGER NOT NULL, strategy TEXT NOT NULL, labels TEXT NOT NULL,
        created_at INTEGER NOT NULL, expires_at INTEGER, version INTEGER NOT NULL, replace_unready INTEGER NOT NULL,
        ready_timeout_s REAL NOT NULL, owner TEXT NOT NULL, settled_at INTEGER, answered_at INTEGER,
        closing TEXT NOT NULL, failure TEXT, decision TEXT, message TEXT NOT NULL, state TEXT NOT NULL) STRICT""",
    "CREATE UNIQUE INDEX reservations_request ON reservations (project, request_id) WHERE request_id <> ''",
    "CREATE INDEX reservations_newest ON reservations (project, created_at DESC, id)",
    "CREATE INDEX reservations_unsettled ON reservations (id) WHERE settled_at IS NULL",
    """CREATE TABLE leases (
        id TEXT PRIMARY KEY, reservation_id TEXT NOT NULL REFERENCES reservations (id), project TEXT NOT NULL,
        attempt INTEGER NOT NULL, provider TEXT NOT NULL, account TEXT NOT NULL, label TEXT NOT NULL UNIQUE,
        offer_id TEXT NOT NULL, host TEXT NOT NULL, conflict_keys TEXT NOT NULL, gpu_model TEXT NOT NULL,
        num_gpus INTEGER NOT NULL, vram_gb INTEGER NOT NULL, location TEXT NOT NULL,
        disk_gb REAL NOT NULL, reliability_ppm INTEGER NOT NULL, verified INTEGER NOT NULL, cuda_max REAL NOT NULL,
        price INTEGER NOT NULL,
        disk_price INTEGER NOT NULL, ceiling INTEGER NOT NULL, state TEXT NOT NULL, version INTEGER NOT NULL,
        created_at INTEGER NOT NULL, send_at INTEGER NOT NULL, call_started_at INTEGER, call_deadline INTEGER,
        instance_id TEXT, started_at INTEGER, seen_at INTEGER, billed TEXT NOT NULL, ready_at INTEGER, ended_at INTEGER,
        expires_at INTEGER, missing_since INTEGER,
        absent_checks INTEGER NOT NULL, absent_checked_at INTEGER, destroy_at INTEGER, destroy_tries INTEGER NOT NULL,
        reason TEXT NOT NULL, status_message TEXT NOT NULL, ssh_host TEXT NOT NULL, ssh_port INTEGER NOT NULL,
        ports TEXT NOT NULL, extras TEXT NOT NULL) STRICT""",
    "CREATE UNIQUE INDEX leases_instance ON leases (provider, instance_id) WHERE instance_id IS NOT NULL",
    "CREATE INDEX leases_newest ON leases (provider, created_at)",
    "CREATE INDEX leases_reservation ON leases (reservation_id, attempt)",
    """CREATE INDEX leases_live ON leases (provider, account)
        WHERE state IN ('requested', 'unknown', 'starting', 'active', 'parked', 'releasing')""",
    """CREATE TABLE holds (
        provider TEXT NOT NULL, key TEXT NOT NULL, lease_id TEXT NOT NULL REFERENCES leases (id),
        PRIMARY KEY (provider, key)) STRICT""",
    "CREATE INDEX holds_lease ON holds (lease_id)",
    """CREATE TABLE meters (
        lease_id TEXT NOT NULL REFERENCES leases (id), opened_at INTEGER NOT NULL, closed_at INTEGER,
        rate INTEGER NOT NULL) STRICT""",
    "CREATE INDEX meters_lease ON meters (lease_id)",
    "CREATE UNIQUE INDEX meters_open ON meters (lease_id) WHERE closed_at IS NULL",
    """CREATE TABLE events (
        seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, project TEXT NOT NULL, reservation_id TEXT NOT NULL,
        lease_id TEXT NOT NULL, event TEXT NOT NULL, state TEXT NOT NULL, data TEXT NOT NULL) STRICT""",
    "CREATE INDEX events_reservation ON events (reservation_id, seq)",
)

_SECOND = (
    "ALTER TABLE leases ADD COLUMN host_gpus INTEGER NOT NULL DEFAULT 0",
    """CREATE TABLE measured (
        host TEXT PRIMARY KEY, provider TEXT NOT NULL, gpu_model TEXT NOT NULL, response_ms REAL NOT NULL,
        sampled_at INTEGER, samples INTEGER NOT NULL, failures INTEGER NOT NULL, ejections INTEGER NOT NULL,
        ejected_until INTEGER) STRICT""",
    """CREATE TABLE rotations (
        strategy TEXT PRIMARY KEY, last TEXT, level INTEGER NOT NULL, standing TEXT NOT NULL,
        version INTEGER NOT NULL) STRICT""",
    """CREATE TABLE exhausted (
        provider TEXT NOT NULL, scope TEXT NOT NULL, key TEXT NOT NULL, until INTEGER NOT NULL,
        PRIMARY KEY (provider, scope, key)) STRICT""",
)

_THIRD = (
    """CREATE TABLE troubles (
        provider TEXT NOT NULL, account TEXT NOT NULL, reason TEXT NOT NULL, said TEXT NOT NULL,
        since INTEGER NOT NULL, until INTEGER, PRIMARY KEY (provider, account, reason)) STRICT""",
)

_FOURTH = (
    """CREATE TABLE users (
        id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, project TEXT NOT NULL, role TEXT NOT NULL,
        password TEXT NOT NULL, created_at INTEGER NOT NULL, disabled_at INTEGER) STRICT""",
    "ALTER TABLE api_keys ADD COLUMN user_id TEXT NOT NULL DEFAULT ''",
    """CREATE TABLE ssh_keys (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, public_key TEXT NOT NULL,
        fingerprint TEXT NOT NULL, created_at INTEGER NOT NULL, deleted_at INTEGER,
        UNIQUE (project, fingerprint)) STRICT""",
)

_FIFTH = (
    """CREATE TABLE settlements (
        lease_id TEXT NOT NULL REFERENCES leases (id), at INTEGER NOT NULL, charged INTEGER NOT NULL,
        metered INTEGER NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (lease_id, at)) STRICT""",
)

_SIXTH = ("ALTER TABLE leases ADD COLUMN stop_at INTEGER",)

_SEVENTH = (
    "ALTER TABLE leases DROP COLUMN send_at",
    "ALTER TABLE leases ADD COLUMN destroy_taken_at INTEGER",
    "ALTER TABLE leases ADD COLUMN gone_said_at INTEGER",
    "ALTER TABLE leases ADD COLUMN faltered_at INTEGER",
    "ALTER TABLE leases ADD COLUMN priced_at INTEGER",
    "UPDATE leases SET priced_at = seen_at",
    "ALTER TABLE reservations ADD COLUMN stopped TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE reservations ADD COLUMN key_id TEXT NOT NULL DEFAULT ''",
)

_EIGHTH = (
    "ALTER TABLE leases ADD COLUMN run_mode TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE leases ADD COLUMN asked_ports TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE leases ADD COLUMN ssh_keys TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE leases ADD COLUMN keys_state TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE leases ADD COLUMN ready_evidence TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE leases ADD COLUMN boot TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE leases ADD COLUMN contract_ends_at INTEGER",
    "ALTER TABLE leases ADD COLUMN contract_warned_at INTEGER",
)

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


_NINTH_TABLES = (
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

_NINTH_SUMS = (
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
_NINTH_TRIGGERS = (
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

_NINTH_INDEXES = (
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

_TENTH = (
    """CREATE TABLE claims (
        name TEXT PRIMARY KEY, owner TEXT NOT NULL, fence INTEGER NOT NULL, until INTEGER NOT NULL) STRICT""",
    "ALTER TABLE reservations DROP COLUMN owner",
)

_ELEVENTH = (
    "ALTER TABLE reservations ADD COLUMN kind TEXT NOT NULL DEFAULT 'reservation'",
    "ALTER TABLE leases ADD COLUMN kind TEXT NOT NULL DEFAULT 'machine'",
    "ALTER TABLE leases ADD COLUMN volume TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE leases ADD COLUMN keeps_gpus INTEGER NOT NULL DEFAULT 0",
    """CREATE TABLE pools (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, machine_id INTEGER NOT NULL, ledger TEXT NOT NULL,
        state TEXT NOT NULL, wanted TEXT NOT NULL, version INTEGER NOT NULL, data TEXT NOT NULL) STRICT""",
    "CREATE UNIQUE INDEX pools_machine ON pools (project, machine_id)",
    "CREATE UNIQUE INDEX pools_ledger ON pools (ledger) WHERE ledger <> ''",
    """CREATE TABLE pool_transitions (
        pool_id TEXT NOT NULL REFERENCES pools (id), seq INTEGER NOT NULL, at INTEGER NOT NULL, before TEXT NOT NULL,
        after TEXT NOT NULL, event TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (pool_id, seq)) STRICT""",
    """CREATE TABLE pool_incidents (
        pool_id TEXT NOT NULL REFERENCES pools (id), number INTEGER NOT NULL, primary_id TEXT NOT NULL,
        ended_at INTEGER, data TEXT NOT NULL, PRIMARY KEY (pool_id, number)) STRICT""",
    "CREATE UNIQUE INDEX pool_incidents_open ON pool_incidents (pool_id) WHERE ended_at IS NULL",
    "CREATE UNIQUE INDEX pool_incidents_of_primary ON pool_incidents (primary_id) WHERE ended_at IS NULL",
)


@migrations()
def m0001_the_books(db: Database) -> None:
    """Create tables for reservations, leases, meters and events, and for the choice of offers."""
    for statement in _FIRST:
        db.execute(statement)


@migrations()
def m0002_the_whole_choice(db: Database) -> None:
    """Create tables for rotations, host measurements and scopes without capacity."""
    for statement in _SECOND:
        db.execute(statement)


@migrations()
def m0003_accounts_in_trouble(db: Database) -> None:
    """Create the table of accounts with problems, for the choice of offers and for the doctor."""
    for statement in _THIRD:
        db.execute(statement)


@migrations()
def m0004_the_session(db: Database) -> None:
    """Create tables for users and SSH keys, and store which user created an API key."""
    for statement in _FOURTH:
        db.execute(statement)


@migrations()
def m0005_what_marketplaces_charged(db: Database) -> None:
    """Create the table of the marketplaces' charges for ended machines."""
    for statement in _FIFTH:
        db.execute(statement)


@migrations()
def m0006_machines_that_are_to_stay_stopped(db: Database) -> None:
    """Store that an owner has stopped a machine, so that the stop survives a crash."""
    for statement in _SIXTH:
        db.execute(statement)


@migrations()
def m0007_slow_to_condemn(db: Database) -> None:
    """Store unconfirmed reports about machines, why a call stopped renting, and which key it used."""
    for statement in _SEVENTH:
        db.execute(statement)


@migrations()
def m0008_ready_means_a_caller_can_get_in(db: Database) -> None:
    """Store how a machine was launched, who must be able to log in, what its boot reported and when it must end."""
    for statement in _EIGHTH:
        db.execute(statement)


@migrations()
def m0009_costs_do_not_grow_with_history(db: Database) -> None:
    """Keep sums and counts with the facts they are made of, and what remains of deleted reservations.

    Triggers change the sums in the transaction of the fact, so that nothing can change the one without the other.
    `forgotten` and `forgotten_*` are the parts of a sum whose rows were deleted.
    """
    for statement in (*_NINTH_TABLES, *_NINTH_SUMS, *_NINTH_TRIGGERS, *_NINTH_INDEXES):
        db.execute(statement)


@migrations()
def m0010_work_is_claimed(db: Database) -> None:
    """Store which process supervises an account or runs a call. It replaces the reservations' column `owner`."""
    for statement in _TENTH:
        db.execute(statement)


@migrations()
def m0011_warm_pools(db: Database) -> None:
    """Create the tables of warm pools. A lease may be of a volume, and a reservation may have a pool's leases."""
    for statement in _ELEVENTH:
        db.execute(statement)


@migrations()
def m0012_paid_in_advance(db: Database) -> None:
    """Store what is booked and paid for machines of marketplaces that are paid in advance."""
    for statement in booking_schema.STATEMENTS:
        db.execute(statement)


@migrations()
def m0013_who_logs_in(db: Database) -> None:
    """Store which user logs in to a machine by SSH: at some marketplaces it is not root."""
    db.execute("ALTER TABLE leases ADD COLUMN ssh_user TEXT NOT NULL DEFAULT 'root'")

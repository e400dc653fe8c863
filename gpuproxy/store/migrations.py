"""The database schema as numbered migrations. A published migration never changes; new ones are appended.

Times are integer microseconds since 1970 (UTC), money is integer micro-dollars, lists and maps are JSON text, and the
program generates all ids. The lock on the database ensures that one process at a time migrates it.
"""

from sqlite_utils import Database, Migrations

from gpuproxy.store import (
    booking_schema,
    idle_schema,
    lease_end_schema,
    ledger_schema,
    limit_schema,
    shared_schema,
    sum_schema,
    webhook_schema,
)

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
    for statement in (*sum_schema.TABLES, *sum_schema.SUMS, *sum_schema.TRIGGERS, *sum_schema.INDEXES):
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


@migrations()
def m0014_the_ledger(db: Database) -> None:
    """Create the ledger and the audit trail, and post the meters, bookings and adjustments that exist."""
    for statement in ledger_schema.STATEMENTS:
        db.execute(statement)


@migrations()
def m0015_spending_limits(db: Database) -> None:
    """Store spending limits and quotas, and the money that is held for each live lease."""
    for statement in limit_schema.STATEMENTS:
        db.execute(statement)


@migrations()
def m0016_how_leases_end(db: Database) -> None:
    """Store for how long a machine is kept after its end, who was told of it, and ends that are being written."""
    for statement in lease_end_schema.STATEMENTS:
        db.execute(statement)


@migrations()
def m0017_webhooks(db: Database) -> None:
    """Create the outbox of events for webhooks, and store of which accounts a silence was told."""
    for statement in webhook_schema.STATEMENTS:
        db.execute(statement)


@migrations()
def m0018_idle_machines(db: Database) -> None:
    """Store since when machines are idle, who was told of it, and after what time an idle machine is released."""
    for statement in idle_schema.STATEMENTS:
        db.execute(statement)


@migrations()
def m0019_what_replicas_share(db: Database) -> None:
    """Store what several processes of a deployment tell each other."""
    for statement in shared_schema.STATEMENTS:
        db.execute(statement)


@migrations()
def m0020_disks_that_are_kept(db: Database) -> None:
    """Hold the price of the disk of a machine that is kept stopped after its end, and of bookings of many hours."""
    for statement in limit_schema.KEPT:
        db.execute(statement)

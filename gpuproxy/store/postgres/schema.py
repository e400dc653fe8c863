"""Migration 1 of PostgreSQL: all tables and indexes that SQLite has after its migration 20. See `migrations`.

A text column has the collation "C", so that values are ordered by their bytes, as in SQLite. Three tables are
PostgreSQL's own: `writers` and `changes`, see `commits`, and the table of migrations.
"""

OWN = (
    """CREATE TABLE writers (
        id TEXT PRIMARY KEY, batch BIGINT NOT NULL, at BIGINT NOT NULL, alive_at BIGINT NOT NULL DEFAULT 0)""",
    """CREATE TABLE changes (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at BIGINT NOT NULL, writer TEXT NOT NULL,
        topic TEXT NOT NULL)""",
)

TABLES = (
    """CREATE TABLE reservations (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, request_id TEXT NOT NULL, fingerprint TEXT NOT NULL, count BIGINT
        NOT NULL, least BIGINT NOT NULL, keep BIGINT NOT NULL, strategy TEXT NOT NULL, labels TEXT NOT NULL,
        created_at BIGINT NOT NULL, expires_at BIGINT, version BIGINT NOT NULL, replace_unready BIGINT NOT NULL,
        ready_timeout_s DOUBLE PRECISION NOT NULL, settled_at BIGINT, answered_at BIGINT, closing TEXT NOT NULL,
        failure TEXT, decision TEXT, message TEXT NOT NULL, state TEXT NOT NULL, stopped TEXT NOT NULL DEFAULT '',
        key_id TEXT NOT NULL DEFAULT '', kind TEXT NOT NULL DEFAULT 'reservation', grace_s BIGINT NOT NULL DEFAULT 0,
        release_idle_s BIGINT NOT NULL DEFAULT 0)""",
    """CREATE TABLE leases (
        id TEXT PRIMARY KEY, reservation_id TEXT NOT NULL REFERENCES reservations (id), project TEXT NOT NULL,
        attempt BIGINT NOT NULL, provider TEXT NOT NULL, account TEXT NOT NULL, label TEXT NOT NULL UNIQUE, offer_id
        TEXT NOT NULL, host TEXT NOT NULL, conflict_keys TEXT NOT NULL, gpu_model TEXT NOT NULL, num_gpus BIGINT NOT
        NULL, vram_gb BIGINT NOT NULL, location TEXT NOT NULL, disk_gb DOUBLE PRECISION NOT NULL, reliability_ppm
        BIGINT NOT NULL, verified BIGINT NOT NULL, cuda_max DOUBLE PRECISION NOT NULL, price BIGINT NOT NULL,
        disk_price BIGINT NOT NULL, ceiling BIGINT NOT NULL, state TEXT NOT NULL, version BIGINT NOT NULL, created_at
        BIGINT NOT NULL, call_started_at BIGINT, call_deadline BIGINT, instance_id TEXT, started_at BIGINT, seen_at
        BIGINT, billed TEXT NOT NULL, ready_at BIGINT, ended_at BIGINT, expires_at BIGINT, missing_since BIGINT,
        absent_checks BIGINT NOT NULL, absent_checked_at BIGINT, destroy_at BIGINT, destroy_tries BIGINT NOT NULL,
        reason TEXT NOT NULL, status_message TEXT NOT NULL, ssh_host TEXT NOT NULL, ssh_port BIGINT NOT NULL, ports
        TEXT NOT NULL, extras TEXT NOT NULL, host_gpus BIGINT NOT NULL DEFAULT 0, stop_at BIGINT, destroy_taken_at
        BIGINT, gone_said_at BIGINT, faltered_at BIGINT, priced_at BIGINT, run_mode TEXT NOT NULL DEFAULT '',
        asked_ports TEXT NOT NULL DEFAULT '[]', ssh_keys TEXT NOT NULL DEFAULT '[]', keys_state TEXT NOT NULL DEFAULT
        '', ready_evidence TEXT NOT NULL DEFAULT '', boot TEXT NOT NULL DEFAULT '[]', contract_ends_at BIGINT,
        contract_warned_at BIGINT, charge_final BIGINT NOT NULL DEFAULT 0, kind TEXT NOT NULL DEFAULT 'machine',
        volume TEXT NOT NULL DEFAULT '', keeps_gpus BIGINT NOT NULL DEFAULT 0, booked_hours BIGINT NOT NULL DEFAULT 0,
        booked_until BIGINT, paid BIGINT NOT NULL DEFAULT 0, refund_after DOUBLE PRECISION, booking_read_at BIGINT,
        extend_at BIGINT, extend_tries BIGINT NOT NULL DEFAULT 0, extend_refusal TEXT NOT NULL DEFAULT '', ssh_user
        TEXT NOT NULL DEFAULT 'root', grace_s BIGINT NOT NULL DEFAULT 0, ending_soon_at BIGINT, new_end BIGINT,
        new_end_until BIGINT, release_idle_s BIGINT NOT NULL DEFAULT 0, idle_since BIGINT, idle_notice_at BIGINT)""",
    """CREATE TABLE pools (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, machine_id BIGINT NOT NULL, ledger TEXT NOT NULL, state TEXT NOT
        NULL, wanted TEXT NOT NULL, version BIGINT NOT NULL, data TEXT NOT NULL)""",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE api_keys (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, role TEXT NOT NULL, prefix TEXT NOT NULL,
        sha256 TEXT NOT NULL UNIQUE, created_at BIGINT NOT NULL, revoked_at BIGINT,
        user_id TEXT NOT NULL DEFAULT '')""",
    "CREATE TABLE projects (id TEXT PRIMARY KEY, strategy TEXT NOT NULL)",
    """CREATE TABLE accounts (
        provider TEXT NOT NULL, account TEXT NOT NULL, next_create_at BIGINT NOT NULL, PRIMARY KEY (provider,
        account))""",
    """CREATE TABLE hosts (
        host TEXT PRIMARY KEY, provider TEXT NOT NULL, live BIGINT NOT NULL, picks BIGINT NOT NULL, last_picked_at
        BIGINT NOT NULL)""",
    """CREATE TABLE holds (
        provider TEXT NOT NULL, key TEXT NOT NULL, lease_id TEXT NOT NULL REFERENCES leases (id), PRIMARY KEY
        (provider, key))""",
    """CREATE TABLE meters (
        lease_id TEXT NOT NULL REFERENCES leases (id), opened_at BIGINT NOT NULL, closed_at BIGINT, rate BIGINT NOT
        NULL, project TEXT NOT NULL DEFAULT '', kind TEXT NOT NULL DEFAULT 'gpu', posted_until BIGINT)""",
    """CREATE TABLE events (
        seq BIGINT PRIMARY KEY, at BIGINT NOT NULL, project TEXT NOT NULL, reservation_id TEXT NOT NULL, lease_id
        TEXT NOT NULL, event TEXT NOT NULL, state TEXT NOT NULL, data TEXT NOT NULL)""",
    """CREATE TABLE measured (
        host TEXT PRIMARY KEY, provider TEXT NOT NULL, gpu_model TEXT NOT NULL, response_ms DOUBLE PRECISION NOT
        NULL, sampled_at BIGINT, samples BIGINT NOT NULL, failures BIGINT NOT NULL, ejections BIGINT NOT NULL,
        ejected_until BIGINT)""",
    """CREATE TABLE rotations (
        strategy TEXT PRIMARY KEY, last TEXT, level BIGINT NOT NULL, standing TEXT NOT NULL,
        version BIGINT NOT NULL)""",
    """CREATE TABLE exhausted (
        provider TEXT NOT NULL, scope TEXT NOT NULL, key TEXT NOT NULL, until BIGINT NOT NULL, PRIMARY KEY (provider,
        scope, key))""",
    """CREATE TABLE troubles (
        provider TEXT NOT NULL, account TEXT NOT NULL, reason TEXT NOT NULL, said TEXT NOT NULL, since BIGINT NOT
        NULL, until BIGINT, PRIMARY KEY (provider, account, reason))""",
    """CREATE TABLE users (
        id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, project TEXT NOT NULL, role TEXT NOT NULL, password TEXT NOT
        NULL, created_at BIGINT NOT NULL, disabled_at BIGINT)""",
    """CREATE TABLE ssh_keys (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, public_key TEXT NOT NULL, fingerprint TEXT
        NOT NULL, created_at BIGINT NOT NULL, deleted_at BIGINT, UNIQUE (project, fingerprint))""",
    """CREATE TABLE settlements (
        lease_id TEXT NOT NULL REFERENCES leases (id), at BIGINT NOT NULL, charged BIGINT NOT NULL, metered BIGINT
        NOT NULL, amount BIGINT NOT NULL, project TEXT NOT NULL DEFAULT '', PRIMARY KEY (lease_id, at))""",
    """CREATE TABLE spent (
        id BIGINT PRIMARY KEY CHECK (id = 1), metered BIGINT NOT NULL DEFAULT 0, adjusted BIGINT NOT NULL DEFAULT 0,
        forgotten_metered BIGINT NOT NULL DEFAULT 0, forgotten_adjusted BIGINT NOT NULL DEFAULT 0, booked BIGINT NOT
        NULL DEFAULT 0, forgotten_booked BIGINT NOT NULL DEFAULT 0, before_ledger BIGINT NOT NULL DEFAULT 0)""",
    """CREATE TABLE lease_counts (
        provider TEXT NOT NULL, state TEXT NOT NULL, number BIGINT NOT NULL DEFAULT 0, forgotten BIGINT NOT NULL
        DEFAULT 0, PRIMARY KEY (provider, state))""",
    """CREATE TABLE reservation_counts (
        project TEXT NOT NULL, state TEXT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (project, state))""",
    "CREATE TABLE transaction_counts (project TEXT PRIMARY KEY, number BIGINT NOT NULL)",
    """CREATE TABLE verified_hosts (
        host TEXT PRIMARY KEY, provider TEXT NOT NULL, picks BIGINT NOT NULL, last_picked_at BIGINT NOT NULL)""",
    """CREATE TABLE verified_measured (
        host TEXT PRIMARY KEY, provider TEXT NOT NULL, gpu_model TEXT NOT NULL, response_ms DOUBLE PRECISION NOT
        NULL, sampled_at BIGINT, samples BIGINT NOT NULL, failures BIGINT NOT NULL, ejections BIGINT NOT NULL,
        ejected_until BIGINT)""",
    """CREATE TABLE forgotten_reservations (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, request_id TEXT NOT NULL, fingerprint TEXT NOT NULL, created_at
        BIGINT NOT NULL, ended_at BIGINT NOT NULL)""",
    """CREATE TABLE forgotten_leases (
        label TEXT PRIMARY KEY, id TEXT NOT NULL, reservation_id TEXT NOT NULL, project TEXT NOT NULL, provider TEXT
        NOT NULL, account TEXT NOT NULL, instance_id TEXT, created_at BIGINT NOT NULL, ended_at BIGINT NOT NULL)""",
    """CREATE TABLE claims (
        name TEXT PRIMARY KEY, owner TEXT NOT NULL, fence BIGINT NOT NULL, until BIGINT NOT NULL)""",
    """CREATE TABLE pool_transitions (
        pool_id TEXT NOT NULL REFERENCES pools (id), seq BIGINT NOT NULL, at BIGINT NOT NULL, before TEXT NOT NULL,
        after TEXT NOT NULL, event TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (pool_id, seq))""",
    """CREATE TABLE pool_incidents (
        pool_id TEXT NOT NULL REFERENCES pools (id), number BIGINT NOT NULL, primary_id TEXT NOT NULL, ended_at
        BIGINT, data TEXT NOT NULL, PRIMARY KEY (pool_id, number))""",
    """CREATE TABLE bookings (
        lease_id TEXT NOT NULL REFERENCES leases (id), number BIGINT NOT NULL, project TEXT NOT NULL, kind TEXT NOT
        NULL, state TEXT NOT NULL, hours BIGINT NOT NULL, amount BIGINT NOT NULL, until_before BIGINT, until_after
        BIGINT, paid_before BIGINT NOT NULL, request_key TEXT NOT NULL UNIQUE, intended_at BIGINT NOT NULL, sent_at
        BIGINT, call_deadline BIGINT, decided_at BIGINT, message TEXT NOT NULL, PRIMARY KEY (lease_id, number))""",
    """CREATE TABLE ledger (
        seq BIGINT PRIMARY KEY, transfer BIGINT NOT NULL, at BIGINT NOT NULL, since BIGINT NOT NULL, until BIGINT NOT
        NULL CHECK (until >= since), account TEXT NOT NULL, kind TEXT NOT NULL, lease_id TEXT NOT NULL, project TEXT
        NOT NULL, key_id TEXT NOT NULL, provider TEXT NOT NULL, provider_account TEXT NOT NULL, amount BIGINT NOT NULL
        CHECK (amount <> 0), gpu_time BIGINT NOT NULL)""",
    "CREATE TABLE ledger_balances (account TEXT PRIMARY KEY, balance BIGINT NOT NULL)",
    """CREATE TABLE ledger_leases (
        lease_id TEXT PRIMARY KEY, reservation_id TEXT NOT NULL, instance_id TEXT NOT NULL, gpu_model TEXT NOT NULL,
        num_gpus BIGINT NOT NULL, labels TEXT NOT NULL)""",
    """CREATE TABLE audit (
        seq BIGINT PRIMARY KEY, at BIGINT NOT NULL, project TEXT NOT NULL, user_id TEXT NOT NULL, key_id TEXT NOT
        NULL, action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL)""",
    """CREATE TABLE spend_limits (
        id TEXT PRIMARY KEY, scope TEXT NOT NULL, subject TEXT NOT NULL, "window" TEXT NOT NULL, length BIGINT NOT
        NULL, amount BIGINT NOT NULL CHECK (amount > 0), policy TEXT NOT NULL, source TEXT NOT NULL, name TEXT NOT
        NULL, set_at BIGINT NOT NULL, posted BIGINT NOT NULL DEFAULT 0, posted_at BIGINT NOT NULL DEFAULT 0,
        posted_since BIGINT NOT NULL DEFAULT 0, posted_until BIGINT NOT NULL DEFAULT 0, near BIGINT NOT NULL DEFAULT
        0)""",
    "CREATE TABLE quotas ( project TEXT PRIMARY KEY, gpus BIGINT, rate BIGINT)",
    """CREATE TABLE spend_holds (
        lease_id TEXT PRIMARY KEY REFERENCES leases (id), project TEXT NOT NULL, key_id TEXT NOT NULL, gpus BIGINT
        NOT NULL, rate BIGINT NOT NULL, peak BIGINT NOT NULL, since BIGINT NOT NULL, until BIGINT NOT NULL, paid_until
        BIGINT, booked BIGINT NOT NULL, extra BIGINT NOT NULL, lead BIGINT NOT NULL, checked_at BIGINT NOT NULL,
        forced BIGINT NOT NULL DEFAULT 0, kept_rate BIGINT NOT NULL DEFAULT 0, kept_until BIGINT NOT NULL DEFAULT 0)""",
    "CREATE TABLE webhook_targets (name TEXT PRIMARY KEY, events TEXT NOT NULL, project TEXT NOT NULL)",
    "CREATE TABLE webhook_sequence (one BIGINT PRIMARY KEY CHECK (one = 1), last BIGINT NOT NULL)",
    """CREATE TABLE webhook_outbox (
        target TEXT NOT NULL, seq BIGINT NOT NULL, event_id TEXT NOT NULL, type TEXT NOT NULL, project TEXT NOT NULL,
        at BIGINT NOT NULL, data TEXT NOT NULL, state TEXT NOT NULL, tries BIGINT NOT NULL, next_at BIGINT, tried_at
        BIGINT, status BIGINT NOT NULL, error TEXT NOT NULL, PRIMARY KEY (target, seq))""",
    """CREATE TABLE shared (
        name TEXT PRIMARY KEY, version BIGINT NOT NULL, at BIGINT NOT NULL, head TEXT NOT NULL, body TEXT NOT NULL)""",
    """CREATE TABLE account_silences (
        provider TEXT NOT NULL, account TEXT NOT NULL, since BIGINT NOT NULL, PRIMARY KEY (provider, account))""",
)

INDEXES = (
    "CREATE INDEX audit_of_project ON audit (project, seq)",
    "CREATE INDEX bookings_decided ON bookings (decided_at) WHERE decided_at IS NOT NULL",
    "CREATE INDEX bookings_newest ON bookings (decided_at DESC, lease_id) WHERE state = 'confirmed'",
    "CREATE INDEX bookings_of_project ON bookings (project, decided_at DESC, lease_id) WHERE state = 'confirmed'",
    "CREATE UNIQUE INDEX bookings_open ON bookings (lease_id) WHERE state IN ('intended', 'sent', 'unknown')",
    "CREATE INDEX bookings_unproven ON bookings (decided_at) WHERE state = 'unproven'",
    "CREATE INDEX events_reservation ON events (reservation_id, seq)",
    "CREATE UNIQUE INDEX forgotten_request ON forgotten_reservations (project, request_id) WHERE request_id <> ''",
    "CREATE INDEX holds_lease ON holds (lease_id)",
    """CREATE INDEX leases_charge_due ON leases (provider, account, ended_at) WHERE charge_final = 0 AND
        instance_id IS NOT NULL AND ended_at IS NOT NULL""",
    "CREATE UNIQUE INDEX leases_instance ON leases (provider, instance_id) WHERE instance_id IS NOT NULL",
    """CREATE INDEX leases_live ON leases (provider, account, created_at, id) WHERE state IN ('requested',
        'unknown', 'starting', 'active', 'parked', 'releasing')""",
    "CREATE INDEX leases_newest ON leases (provider, created_at)",
    """CREATE INDEX leases_prepaid_ended ON leases (provider, account, ended_at) WHERE booked_hours > 0 AND
        ended_at IS NOT NULL""",
    "CREATE INDEX leases_reservation ON leases (reservation_id, attempt)",
    "CREATE INDEX ledger_of_account ON ledger (account, until, since, amount)",
    """CREATE INDEX ledger_of_key ON ledger (key_id, until, since, amount) WHERE key_id <> '' AND substr(account,
        1, 5) = 'cost:'""",
    "CREATE INDEX ledger_of_lease ON ledger (lease_id)",
    "CREATE INDEX ledger_of_transfer ON ledger (transfer)",
    """CREATE INDEX ledger_refunds ON ledger (account, until) WHERE amount < 0 AND substr(account, 1, 9) <>
        'provider:'""",
    "CREATE INDEX meters_lease ON meters (lease_id)",
    "CREATE INDEX meters_newest ON meters (closed_at DESC, lease_id) WHERE closed_at IS NOT NULL",
    "CREATE INDEX meters_of_project ON meters (project, closed_at DESC, lease_id) WHERE closed_at IS NOT NULL",
    "CREATE UNIQUE INDEX meters_open ON meters (lease_id) WHERE closed_at IS NULL",
    "CREATE UNIQUE INDEX pool_incidents_of_primary ON pool_incidents (primary_id) WHERE ended_at IS NULL",
    "CREATE UNIQUE INDEX pool_incidents_open ON pool_incidents (pool_id) WHERE ended_at IS NULL",
    "CREATE UNIQUE INDEX pools_ledger ON pools (ledger) WHERE ledger <> ''",
    "CREATE UNIQUE INDEX pools_machine ON pools (project, machine_id)",
    "CREATE INDEX reservations_in_state ON reservations (project, state, created_at DESC, id)",
    """CREATE INDEX reservations_keyed ON reservations (created_at) WHERE request_id <> '' AND substr(fingerprint,
        1, 3) = 'k1:'""",
    "CREATE INDEX reservations_newest ON reservations (project, created_at DESC, id)",
    "CREATE INDEX reservations_of_all ON reservations (created_at DESC, id)",
    "CREATE INDEX reservations_of_all_in_state ON reservations (state, created_at DESC, id)",
    "CREATE UNIQUE INDEX reservations_request ON reservations (project, request_id) WHERE request_id <> ''",
    "CREATE INDEX reservations_unsettled ON reservations (id) WHERE settled_at IS NULL",
    "CREATE INDEX settlements_newest ON settlements (at DESC, lease_id) WHERE amount <> 0",
    "CREATE INDEX settlements_of_project ON settlements (project, at DESC, lease_id) WHERE amount <> 0",
    "CREATE INDEX spend_holds_project ON spend_holds (project)",
    "CREATE INDEX webhook_outbox_at ON webhook_outbox (at)",
    "CREATE INDEX webhook_outbox_newest ON webhook_outbox (seq)",
    "CREATE INDEX webhook_outbox_pending ON webhook_outbox (target, seq) WHERE state = 'pending'",
)


ROWS = ("INSERT INTO spent (id) VALUES (1)", "INSERT INTO webhook_sequence (one, last) VALUES (1, 0)")

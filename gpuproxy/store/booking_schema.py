"""The tables of migration 12, which has what is paid in advance. See `migrations` for the rules."""

_COUNT_ONE = (
    "INSERT INTO transaction_counts (project, number) VALUES (new.project, 1) "
    "ON CONFLICT (project) DO UPDATE SET number = number + 1;"
)
_CONFIRMED = f"UPDATE spent SET booked = booked + new.amount; {_COUNT_ONE}"  # noqa: S608 - our own words

STATEMENTS = (
    "ALTER TABLE leases ADD COLUMN booked_hours INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE leases ADD COLUMN booked_until INTEGER",
    "ALTER TABLE leases ADD COLUMN paid INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE leases ADD COLUMN refund_after REAL",
    "ALTER TABLE leases ADD COLUMN booking_read_at INTEGER",
    "ALTER TABLE leases ADD COLUMN extend_at INTEGER",
    "ALTER TABLE leases ADD COLUMN extend_tries INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE leases ADD COLUMN extend_refusal TEXT NOT NULL DEFAULT ''",
    """CREATE TABLE bookings (
        lease_id TEXT NOT NULL REFERENCES leases (id), number INTEGER NOT NULL, project TEXT NOT NULL,
        kind TEXT NOT NULL, state TEXT NOT NULL, hours INTEGER NOT NULL, amount INTEGER NOT NULL,
        until_before INTEGER, until_after INTEGER, paid_before INTEGER NOT NULL, request_key TEXT NOT NULL UNIQUE,
        intended_at INTEGER NOT NULL, sent_at INTEGER, call_deadline INTEGER, decided_at INTEGER,
        message TEXT NOT NULL, PRIMARY KEY (lease_id, number)) STRICT""",
    "CREATE UNIQUE INDEX bookings_open ON bookings (lease_id) WHERE state IN ('intended', 'sent', 'unknown')",
    "CREATE INDEX bookings_newest ON bookings (decided_at DESC, lease_id) WHERE state = 'confirmed'",
    "CREATE INDEX bookings_of_project ON bookings (project, decided_at DESC, lease_id) WHERE state = 'confirmed'",
    "CREATE INDEX bookings_decided ON bookings (decided_at) WHERE decided_at IS NOT NULL",
    """CREATE INDEX leases_prepaid_ended ON leases (provider, account, ended_at)
        WHERE booked_hours > 0 AND ended_at IS NOT NULL""",
    "ALTER TABLE spent ADD COLUMN booked INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE spent ADD COLUMN forgotten_booked INTEGER NOT NULL DEFAULT 0",
    f"""CREATE TRIGGER booking_confirmed AFTER UPDATE OF state ON bookings
        WHEN old.state <> 'confirmed' AND new.state = 'confirmed' BEGIN {_CONFIRMED} END""",
    f"""CREATE TRIGGER booking_inserted AFTER INSERT ON bookings
        WHEN new.state = 'confirmed' BEGIN {_CONFIRMED} END""",
    """CREATE TRIGGER booking_forgotten AFTER DELETE ON bookings WHEN old.state = 'confirmed' BEGIN
        UPDATE spent SET forgotten_booked = forgotten_booked + old.amount;
        UPDATE transaction_counts SET number = number - 1 WHERE project = old.project; END""",
)

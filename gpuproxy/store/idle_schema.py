"""The columns of migration 18, which has idle machines. See `migrations` for the rules."""

STATEMENTS = (
    "ALTER TABLE reservations ADD COLUMN release_idle_s INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE leases ADD COLUMN release_idle_s INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE leases ADD COLUMN idle_since INTEGER",
    "ALTER TABLE leases ADD COLUMN idle_notice_at INTEGER",
)

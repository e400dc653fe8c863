"""The columns of migration 16, which has how leases end. See `migrations` for the rules."""

STATEMENTS = (
    "ALTER TABLE reservations ADD COLUMN grace_s INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE leases ADD COLUMN grace_s INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE leases ADD COLUMN ending_soon_at INTEGER",
    "ALTER TABLE leases ADD COLUMN new_end INTEGER",
    "ALTER TABLE leases ADD COLUMN new_end_until INTEGER",
)

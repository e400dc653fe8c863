"""The tables of migration 14: the ledger and the audit trail. See `migrations` for the rules.

The triggers refuse every change of a row, and keep the balance of each account as rows are written.
"""

_REAPPEARED_BEFORE = (
    "(l.reason IN ('SURPLUS', 'ORPHAN', 'REAPPEARED') OR EXISTS (SELECT 1 FROM events e "
    "WHERE e.reservation_id = l.reservation_id AND e.lease_id = l.id AND e.event = 'reappeared' AND e.at <= {}))"
)
_COST = "(CASE WHEN surplus THEN 'surplus:' || provider || ':' || account ELSE 'cost:' || project END)"
_HOUR = 3_600_000_000


def _accrued(row: str) -> str:
    """The cost of a closed meter: exactly `money.accrued`. Migration 9 says how it stays within 63 bits."""
    lasted, rate = f"({row}.closed_at - {row}.opened_at)", f"min({row}.rate, 100000000000000)"
    rest = f"({rate} * ({lasted} % {_HOUR} / 60000) + {rate} * ({lasted} % 60000) / 60000) / 60000"
    return f"({rate} * ({lasted} / {_HOUR}) + {rest})"


TABLES = (
    """CREATE TABLE ledger (
        seq INTEGER PRIMARY KEY, transfer INTEGER NOT NULL, at INTEGER NOT NULL, since INTEGER NOT NULL,
        until INTEGER NOT NULL CHECK (until >= since), account TEXT NOT NULL, kind TEXT NOT NULL,
        lease_id TEXT NOT NULL, project TEXT NOT NULL, key_id TEXT NOT NULL, provider TEXT NOT NULL,
        provider_account TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount <> 0),
        gpu_time INTEGER NOT NULL) STRICT""",
    "CREATE TABLE ledger_balances (account TEXT PRIMARY KEY, balance INTEGER NOT NULL) STRICT",
    """CREATE TABLE ledger_leases (
        lease_id TEXT PRIMARY KEY, reservation_id TEXT NOT NULL, instance_id TEXT NOT NULL, gpu_model TEXT NOT NULL,
        num_gpus INTEGER NOT NULL, labels TEXT NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE audit (
        seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, project TEXT NOT NULL, user_id TEXT NOT NULL,
        key_id TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL) STRICT""",
    "CREATE INDEX audit_of_project ON audit (project, seq)",
    "CREATE INDEX ledger_of_account ON ledger (account, until, since, amount)",
    """CREATE INDEX ledger_of_key ON ledger (key_id, until, since, amount)
        WHERE key_id <> '' AND substr(account, 1, 5) = 'cost:'""",
    "CREATE INDEX ledger_of_lease ON ledger (lease_id)",
    """CREATE INDEX ledger_refunds ON ledger (account, until)
        WHERE amount < 0 AND substr(account, 1, 9) <> 'provider:'""",
    "CREATE INDEX ledger_of_transfer ON ledger (transfer)",
    "ALTER TABLE meters ADD COLUMN kind TEXT NOT NULL DEFAULT 'gpu'",
    "ALTER TABLE meters ADD COLUMN posted_until INTEGER",
    "ALTER TABLE spent ADD COLUMN before_ledger INTEGER NOT NULL DEFAULT 0",
)

TRIGGERS = (
    """CREATE TRIGGER ledger_is_never_changed BEFORE UPDATE ON ledger
        BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_is_never_deleted BEFORE DELETE ON ledger
        BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_is_never_replaced BEFORE INSERT ON ledger
        WHEN EXISTS (SELECT 1 FROM ledger WHERE seq = new.seq)
        BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
        BEGIN SELECT raise(ABORT, 'the audit trail is append-only'); END""",
    """CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
        BEGIN SELECT raise(ABORT, 'the audit trail is append-only'); END""",
    """CREATE TRIGGER ledger_posted AFTER INSERT ON ledger BEGIN
        INSERT INTO ledger_balances (account, balance) VALUES (new.account, new.amount)
        ON CONFLICT (account) DO UPDATE SET balance = balance + excluded.balance; END""",
)

_OF_LEASE = "l.project, l.provider, l.account, l.num_gpus, r.key_id"
_JOINS = "JOIN leases l ON l.id = x.lease_id JOIN reservations r ON r.id = l.reservation_id"
_METERS = f"""SELECT x.closed_at AS at, x.opened_at AS since, x.closed_at AS until, x.kind, l.id AS lease_id,
    {_OF_LEASE}, x.kind = 'surplus' AS surplus, {_accrued("x")} AS amount,
    CASE WHEN x.kind = 'gpu' THEN l.num_gpus * (x.closed_at - x.opened_at) ELSE 0 END AS gpu_time
    FROM meters x {_JOINS} WHERE x.closed_at IS NOT NULL"""  # noqa: S608 - our own words
_BOOKINGS = f"""SELECT x.decided_at, x.decided_at, x.decided_at,
    CASE WHEN x.kind = 'refund' THEN 'refund' ELSE 'booking' END, l.id,
    {_OF_LEASE}, {_REAPPEARED_BEFORE.format("x.decided_at")}, x.amount, l.num_gpus * x.hours * {_HOUR}
    FROM bookings x {_JOINS} WHERE x.state = 'confirmed'"""  # noqa: S608 - our own words
_ENDED = "min(coalesce(l.ended_at, x.at), x.at)"
_ADJUSTED = f"""SELECT x.at, min(coalesce(l.call_started_at, l.created_at), {_ENDED}), {_ENDED}, 'adjustment', l.id,
    {_OF_LEASE}, {_REAPPEARED_BEFORE.format("x.at")}, x.amount, 0 FROM settlements x {_JOINS}"""  # noqa: S608
_FACTS = f"{_METERS} UNION ALL {_BOOKINGS} UNION ALL {_ADJUSTED}"

POSTED = (
    f"""UPDATE meters SET kind = (SELECT CASE WHEN {_REAPPEARED_BEFORE.format("meters.opened_at")} THEN 'surplus'
        WHEN l.kind = 'volume' THEN 'volume' WHEN meters.rate <= l.disk_price THEN 'storage' ELSE 'gpu' END
        FROM leases l WHERE l.id = meters.lease_id)""",  # noqa: S608 - our own words
    "UPDATE meters SET posted_until = closed_at WHERE closed_at IS NOT NULL",
    f"""CREATE TEMP TABLE facts AS SELECT row_number() OVER (ORDER BY at, lease_id) AS number, {_COST} AS cost, f.*
        FROM ({_FACTS}) f WHERE amount <> 0""",  # noqa: S608 - our own words
    """INSERT INTO ledger
        SELECT 2 * number - 1, 2 * number - 1, at, since, until, cost, CASE WHEN surplus THEN 'surplus' ELSE kind END,
        lease_id, project, key_id, provider, account, amount, gpu_time FROM facts
        UNION ALL SELECT 2 * number, 2 * number - 1, at, since, until, 'provider:' || provider || ':' || account,
        CASE WHEN surplus THEN 'surplus' ELSE kind END, lease_id, project, key_id, provider, account, -amount, 0
        FROM facts ORDER BY 1""",
    """INSERT INTO ledger_leases
        SELECT l.id, l.reservation_id, coalesce(l.instance_id, ''), l.gpu_model, l.num_gpus, r.labels
        FROM leases l JOIN reservations r ON r.id = l.reservation_id WHERE l.id IN (SELECT lease_id FROM facts)""",
    "DROP TABLE facts",
    "UPDATE spent SET before_ledger = forgotten_metered + forgotten_adjusted + forgotten_booked",
)
"""Posts what exists, a meter as one row. What was deleted before is not posted: `before_ledger` is its sum."""

STATEMENTS = (*TABLES, *TRIGGERS, *POSTED)

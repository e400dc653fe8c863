"""The tables of migration 17, which has the events that wait for webhooks. See `migrations` for the rules.

`webhook_targets` has what the settings say, without URLs and secrets, so that the transaction of a fact knows who is
told. `account_silences` has the accounts of which a silence was told.
"""

STATEMENTS = (
    "CREATE TABLE webhook_targets (name TEXT PRIMARY KEY, events TEXT NOT NULL, project TEXT NOT NULL) STRICT",
    "CREATE TABLE webhook_sequence (one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL) STRICT",
    "INSERT INTO webhook_sequence (one, last) VALUES (1, 0)",
    """CREATE TABLE webhook_outbox (
        target TEXT NOT NULL, seq INTEGER NOT NULL, event_id TEXT NOT NULL, type TEXT NOT NULL, project TEXT NOT NULL,
        at INTEGER NOT NULL, data TEXT NOT NULL, state TEXT NOT NULL, tries INTEGER NOT NULL, next_at INTEGER,
        tried_at INTEGER, status INTEGER NOT NULL, error TEXT NOT NULL, PRIMARY KEY (target, seq)) STRICT""",
    "CREATE INDEX webhook_outbox_pending ON webhook_outbox (target, seq) WHERE state = 'pending'",
    "CREATE INDEX webhook_outbox_newest ON webhook_outbox (seq)",
    "CREATE INDEX webhook_outbox_at ON webhook_outbox (at)",
    """CREATE TABLE account_silences (
        provider TEXT NOT NULL, account TEXT NOT NULL, since INTEGER NOT NULL,
        PRIMARY KEY (provider, account)) STRICT""",
)

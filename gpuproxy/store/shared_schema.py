"""The table of migration 19, which has what the processes of a deployment tell each other. See `migrations`."""

STATEMENTS = (
    """CREATE TABLE shared (
        name TEXT PRIMARY KEY, version INTEGER NOT NULL, at INTEGER NOT NULL, head TEXT NOT NULL,
        body TEXT NOT NULL) STRICT""",
)

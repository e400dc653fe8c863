"""The Database port over PostgreSQL, for any number of equal servers. `database` states the isolation."""

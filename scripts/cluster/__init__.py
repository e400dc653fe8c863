"""`make cluster`: three servers on one PostgreSQL with a synchronous standby, under load and incidents."""

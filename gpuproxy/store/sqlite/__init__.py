"""The database in one SQLite file, and the care for that file."""

"""The Database port over one SQLite file, and the handling of that file: locks, location, free disk space."""

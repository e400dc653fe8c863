"""The caller's view of reservations: read, list, watch, release, extend."""

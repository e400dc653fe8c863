"""The caller's view of a machine: stop, start, logs."""

"""Warm pools: a standby beside a primary on the same host, which takes over when the primary fails."""

"""What offers, leases and reservations are, and how they may change: no clock, no I/O, standard library only."""

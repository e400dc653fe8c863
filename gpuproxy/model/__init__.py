"""The model: offers, leases, reservations, and how they may change. No clock, no I/O, standard library only."""

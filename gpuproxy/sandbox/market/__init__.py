"""The simulated market: machines, instances, volumes, contracts, and how they change with time."""

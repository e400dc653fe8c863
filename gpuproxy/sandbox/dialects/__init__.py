"""The wire formats of the real marketplaces, for the simulated market."""

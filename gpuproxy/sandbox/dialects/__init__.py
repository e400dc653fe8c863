"""The wire formats of real marketplaces, spoken by the simulated one."""

"""The wire formats of real marketplaces, spoken by the simulated one."""

MARKETPLACES = ("vast.ai",)
"""The names of the marketplaces whose API the sandbox speaks."""

"""The wire formats of the real marketplaces, for the simulated market."""

MARKETPLACES = ("vast.ai",)
"""The names of the marketplaces whose API the sandbox speaks."""

"""The wire formats of the real marketplaces, for the simulated markets."""

MARKETPLACES = ("vast.ai", "io.net")
"""The names of the marketplaces whose API the sandbox speaks. `registry` has their dialects in the same order."""

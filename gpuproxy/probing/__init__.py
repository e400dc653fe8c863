"""Probes: renting the cheapest machines of an account for a short time, to measure how its marketplace behaves."""

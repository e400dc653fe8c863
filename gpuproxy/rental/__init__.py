"""Renting: choose offers, commit the intent, create, record the outcome, replace what failed.

Every paid effect is written down as intent before it happens and recorded after it, so a crash at any point leaves
rows that the reconciler can finish from.
"""

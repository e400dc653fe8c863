"""Renting: choose offers, commit the intent, create, record the outcome, replace what failed.

Every paid effect is committed as an intent before it happens, and its outcome is recorded afterwards. So a crash at
any point leaves rows from which the reconciler can finish the work.
"""

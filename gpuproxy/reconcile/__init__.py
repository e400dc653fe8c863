"""Reconcile the database with what the provider lists: observe, plan, apply.

`plan` is pure: from the leases, one listing and the time, it computes the steps that repair the difference.
"""

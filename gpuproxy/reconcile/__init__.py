"""The database against what the provider lists: observe, plan, apply.

`plan` is pure: from the leases, one listing and the time to the steps that repair the difference.
"""

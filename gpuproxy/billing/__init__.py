"""What machines cost: the ledger, the check against the provider's credit, and the true-up to its charges."""

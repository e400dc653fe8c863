"""What machines cost: the check against the provider's own bill, and the true-up to what it charged."""

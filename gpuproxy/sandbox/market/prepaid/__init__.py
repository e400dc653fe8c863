"""A market where deployments are booked and paid in advance, by the whole hour, and end by themselves."""

"""What can be rented now: the offers of all accounts, as snapshots that are searched by column."""

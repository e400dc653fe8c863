"""What can be rented now: offers from every account, as snapshots that are searched by column."""

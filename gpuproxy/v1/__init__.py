"""Generated from the contract by scripts/proto; never edited."""

"""The books. Functions here take a transaction and hold the only SQL in the program; they do nothing else."""

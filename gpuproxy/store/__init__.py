"""The database. Each function takes a transaction and runs SQL. The program has SQL nowhere else."""

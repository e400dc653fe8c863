"""Which offers to rent: strategies, the choice of hosts, exclusions, the circuit breaker."""

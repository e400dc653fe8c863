"""Which offers to rent: strategies, the choice of hosts, the circuit breaker."""

"""The readiness of the server, and the problems that an operator has to look at."""

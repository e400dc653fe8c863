"""Whether the server is ready, and what an operator has to look at."""

"""How the result of a call becomes an event of its lease, and how a lease's end becomes an answer to the caller."""

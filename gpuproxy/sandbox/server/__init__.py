"""The sandbox on a socket or in process."""

"""The server and the administration commands: wiring, startup and shutdown, metrics, tracing.

`main` is the only module that chooses the concrete implementations of the ports.
"""

"""The server and the administration commands: wiring, lifetimes, start and stop, metrics, tracing.

`main` is the only module that chooses the adapters.
"""

"""The server and the administration commands: wiring, lifetimes, start and stop, metrics, tracing.

`main` is the only module that knows which concrete things exist.
"""

"""A simulated GPU market with the wire formats of the real marketplaces, on loopback or in process.

It imports only `gpuproxy.ports` and the GPU table, never an adapter, so that client and server don't share errors.
"""

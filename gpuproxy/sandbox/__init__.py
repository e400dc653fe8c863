"""One simulated GPU market that speaks the marketplaces' real wire dialects, on loopback or in process.

It sees only `gpuproxy.ports` and the GPU table, never an adapter, so that the two sides can't share a mistake.
"""

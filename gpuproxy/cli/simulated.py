"""Machines of the sandbox, and what commands say about them."""

from gpuproxy.v1 import gpuproxy_pb2 as pb

SANDBOX = "a simulated machine: it costs nothing and only sends an SSH banner"


def is_simulated(machine: pb.GPUInstance) -> bool:
    """True for a machine of the sandbox."""
    return machine.metadata.get("sandbox") == "true"

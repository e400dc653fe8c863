"""io.net: the adapter, and the descriptor for its entry point."""

from gpuproxy.ports import Descriptor
from gpuproxy.providers.ionet.adapter import IoNet
from gpuproxy.providers.ionet.api import BASE_URL
from gpuproxy.providers.ionet.capabilities import CALLS, CAPABILITIES
from gpuproxy.providers.ionet.wire import NAME, PREFIX

DESCRIPTOR = Descriptor(
    name=NAME,
    prefix=PREFIX,
    env="IONET",
    connect=IoNet,
    capabilities=CAPABILITIES,
    calls=CALLS,
    url=BASE_URL,
)

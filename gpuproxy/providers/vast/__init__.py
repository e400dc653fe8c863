"""vast.ai: the adapter, and the descriptor for its entry point."""

from gpuproxy.ports import Descriptor
from gpuproxy.providers.vast.adapter import BASE_URL, CALLS, CAPABILITIES, OWN_READ, VastAi
from gpuproxy.providers.vast.wire import NAME, PREFIX

DESCRIPTOR = Descriptor(
    name=NAME,
    prefix=PREFIX,
    env="VASTAI",
    connect=VastAi,
    capabilities=CAPABILITIES,
    calls=CALLS,
    url=BASE_URL,
    own_read=OWN_READ,
)

"""GPU Proxy: rent GPUs on marketplaces through one API, and never lose track of a paid machine.

`from gpuproxy import Client, AsyncClient` gets the Python client, which is imported only then.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuproxy.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from gpuproxy import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

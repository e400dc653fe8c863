"""The RPC about marketplaces and accounts."""
# ruff: noqa: N802 - methods are named as in the contract

from gpuproxy.edge.messages.providers import providers_answer
from gpuproxy.health.sheets import Sheets
from gpuproxy.model.demands import Caller
from gpuproxy.v1 import gpuproxy_pb2 as pb


class ProviderCalls:
    """The RPC about marketplaces and accounts; `service` includes it."""

    def __init__(self, sheets: Sheets) -> None:
        self._sheets = sheets

    async def ListProviders(self, request: pb.ListProvidersRequest, _caller: Caller) -> pb.ListProvidersResponse:
        """Return the sheets of all marketplaces, or of one."""
        return providers_answer(await self._sheets.read(request.provider.strip().lower()))

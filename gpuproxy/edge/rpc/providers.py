"""The RPCs about marketplaces and accounts."""
# ruff: noqa: N802 - methods are named as in the contract

from gpuproxy.edge.messages.probes import budget_of, probe_message
from gpuproxy.edge.messages.providers import providers_answer
from gpuproxy.health.sheets import Sheets
from gpuproxy.model.demands import Caller
from gpuproxy.probing.requests import Prober
from gpuproxy.v1 import gpuproxy_pb2 as pb


class ProviderCalls:
    """The RPC about marketplaces and accounts; `service` includes it."""

    def __init__(self, sheets: Sheets) -> None:
        self._sheets = sheets

    async def ListProviders(self, request: pb.ListProvidersRequest, _caller: Caller) -> pb.ListProvidersResponse:
        """Return the sheets of all marketplaces, or of one."""
        provider = request.provider.strip().lower()
        return providers_answer(await self._sheets.read("" if provider == "all" else provider))


class ProbeCalls:
    """The RPCs about probes; `service` includes them."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober

    async def ProbeProvider(self, request: pb.ProbeProviderRequest, caller: Caller) -> pb.ProbeProviderResponse:
        """Start a probe, or say what it would do."""
        budget, provider = budget_of(request), request.provider.strip().lower()
        begin = self._prober.plan if request.dry_run else self._prober.start
        return pb.ProbeProviderResponse(
            probe=probe_message(await begin(caller, provider, request.account.strip(), budget))
        )

    async def GetProviderProbe(
        self, request: pb.GetProviderProbeRequest, _caller: Caller
    ) -> pb.GetProviderProbeResponse:
        """Return the last probe of an account."""
        found = await self._prober.last(request.provider.strip().lower(), request.account.strip())
        return pb.GetProviderProbeResponse(probe=probe_message(found))

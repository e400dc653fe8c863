"""The RPCs about spending limits."""
# ruff: noqa: N802 - methods are named as in the contract

from gpuproxy.billing.limits import LimitWish, SpendingLimits
from gpuproxy.edge.messages.limits import amount_of, check_answer, limit_message, limit_of, window_message
from gpuproxy.model.demands import Caller
from gpuproxy.model.money import usd
from gpuproxy.v1 import gpuproxy_pb2 as pb


class LimitCalls:
    """The RPCs about spending limits; `service` includes them."""

    def __init__(self, limits: SpendingLimits) -> None:
        self._limits = limits

    async def GetSpendingInfo(self, _request: pb.GetSpendingInfoRequest, caller: Caller) -> pb.GetSpendingInfoResponse:
        """Return what was spent and is held within each window, and the limits."""
        shown, spent = await self._limits.windows(caller)
        return pb.GetSpendingInfoResponse(
            windows=[window_message(each.usage, each.next_release_at) for each in shown],
            guard_rails_enabled=any(each.usage.limit.amount for each in shown),
            total_spent_24h=usd(spent),
        )

    async def CheckSpendingLimit(
        self, request: pb.CheckSpendingLimitRequest, caller: Caller
    ) -> pb.CheckSpendingLimitResponse:
        """Return whether an amount could be held now, and the limits that would refuse it."""
        amount = amount_of("amount", request.amount)
        return check_answer(await self._limits.check(caller, amount))

    async def SetSpendingLimit(
        self, request: pb.SetSpendingLimitRequest, _caller: Caller
    ) -> pb.SetSpendingLimitResponse:
        """Set a limit, or remove it."""
        wanted = LimitWish(
            window=request.window,
            amount=limit_of(request.limit),
            project=request.project,
            key_id=request.key_id,
            policy=request.policy.strip().lower(),
        )
        return pb.SetSpendingLimitResponse(limit=limit_message(await self._limits.set(wanted)))

    async def ListSpendingLimits(
        self, _request: pb.ListSpendingLimitsRequest, caller: Caller
    ) -> pb.ListSpendingLimitsResponse:
        """Return the limits that the caller may see."""
        return pb.ListSpendingLimitsResponse(limits=[limit_message(each) for each in await self._limits.listed(caller)])

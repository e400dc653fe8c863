"""All dialects of a sandbox. A new one is added here, and its name to `MARKETPLACES`."""

from gpuproxy.sandbox.dialects.ionet.dialect import IoNet
from gpuproxy.sandbox.dialects.ionet.rate_limit import RateLimit
from gpuproxy.sandbox.dialects.vast.dialect import Vast
from gpuproxy.sandbox.dialects.vast.rate_limits import RateLimits
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.prepaid.exchange import PrepaidMarket
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.protocol.dialect import Dialect


def dialects_of(
    options: SandboxOptions, market: SimulatedMarket, prepaid: PrepaidMarket, scale: float
) -> tuple[Dialect, ...]:
    """The dialect of each marketplace, on its market. `scale` is the number of market seconds in a real second."""
    enforced = options.rate_limits == "real"
    return (
        Vast(
            market,
            RateLimits(enforced=enforced, scale=scale),
            search_page=options.search_page,
            list_lag=options.list_lag,
            sharing=options.volume_sharing == "allow",
            gone_as=options.gone_as,
        ),
        IoNet(
            prepaid,
            RateLimit(enforced=enforced, form=options.ionet_retry_after, scale=scale),
            deploy_body=options.ionet_deploy_body,
            lag=options.ionet_lag,
        ),
    )

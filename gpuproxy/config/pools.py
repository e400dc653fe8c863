"""The settings of warm pools as the engine takes them."""

from typing import Protocol

from gpuproxy.model.pools import PoolSpec
from gpuproxy.warmpool.limits import PoolLimits


class PoolNumbers(Protocol):
    """The settings that become PoolLimits."""

    warmpool_check_interval: float
    warmpool_probe_timeout: float
    warmpool_failures: int
    warmpool_unreachable_after: float
    warmpool_fence_timeout: float
    warmpool_start_timeout: float
    warmpool_ready_timeout: float
    warmpool_create_timeout: float
    warmpool_free_check_interval: float
    warmpool_unchecked_after: float
    warmpool_retry_interval: float
    warmpool_retry_max: float


_SETTINGS = {
    "check_seconds": "CHECK_INTERVAL",
    "probe_timeout": "PROBE_TIMEOUT",
    "failures": "FAILURES",
    "unreachable_seconds": "UNREACHABLE_AFTER",
    "fence_seconds": "FENCE_TIMEOUT",
    "free_check_seconds": "FREE_CHECK_INTERVAL",
    "unchecked_seconds": "UNCHECKED_AFTER",
}
"""By the field of PoolLimits; those that its checks name."""


def setting_of(field: str) -> str:
    """The setting that gives a field of PoolLimits."""
    return f"GPUPROXY_WARMPOOL_{_SETTINGS[field]}"


def limits_of(settings: PoolNumbers) -> PoolLimits:
    """The intervals and limits that an operator chose."""
    return PoolLimits(
        check_seconds=settings.warmpool_check_interval,
        probe_timeout=settings.warmpool_probe_timeout,
        failures=settings.warmpool_failures,
        unreachable_seconds=settings.warmpool_unreachable_after,
        fence_seconds=settings.warmpool_fence_timeout,
        start_seconds=settings.warmpool_start_timeout,
        ready_seconds=settings.warmpool_ready_timeout,
        create_seconds=settings.warmpool_create_timeout,
        free_check_seconds=settings.warmpool_free_check_interval,
        unchecked_seconds=settings.warmpool_unchecked_after,
        retry_seconds=settings.warmpool_retry_interval,
        retry_most=settings.warmpool_retry_max,
    )


def spec_of(gpu: str, max_price: float | None) -> PoolSpec | None:
    """The pool that EnableWarmPool makes without a specification; None if the operator has set none."""
    if not gpu.strip() or max_price is None:
        return None
    return PoolSpec(gpu_model=gpu.strip(), max_price=max_price, price_from="GPUPROXY_WARMPOOL_MAX_PRICE")

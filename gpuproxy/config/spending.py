"""The settings of spending: limits for all projects, their policy, quotas, and how far ahead money is held.

GUARDRAILS_MAX_<WINDOW>_RATE are the names of the published service. Each is a limit of all projects together.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpuproxy.config.names import GUARDRAILS, env_name
from gpuproxy.config.values import PositiveSeconds
from gpuproxy.model.limits import Policy, SpendingLimit, window
from gpuproxy.model.money import Micro, micro
from gpuproxy.model.quotas import Quota

_SHORTEST_HORIZON = 600.0
_MOST = 1e9
"""USD. The largest limit of SetSpendingLimit, too."""


class SpendingSettings(BaseSettings):
    """The part of Settings about spending."""

    model_config = SettingsConfigDict(alias_generator=env_name, validate_by_name=True, validate_by_alias=True)

    hold_horizon: PositiveSeconds = Field(
        3600.0,
        ge=_SHORTEST_HORIZON,
        description="how far ahead money is held for a machine without an end, at least 10m: "
        "[spending-limits.md](spending-limits.md)",
    )
    idle_below: float = Field(
        5.0,
        ge=0,
        lt=100,
        allow_inf_nan=False,
        description="GPU utilisation in percent at or below which a machine counts as idle: "
        "[idle-machines.md](idle-machines.md)",
    )
    limit_policy: Policy = Field(
        "stop_newest",
        description="what happens when a spending limit without a policy of its own is reached: `warn`, `no_new`, "
        "`stop_newest` or `release_newest`: [spending-limits.md](spending-limits.md#policies)",
    )
    project_max_gpus: str = Field(
        "",
        description="quota: GPUs that a project may use at once, for example `8` for every project, or "
        "`8,research=32` with another number for one. Default: any number",
    )
    project_max_price_per_hour: str = Field(
        "",
        description="quota: USD per hour that all machines of a project may cost together, for example `20` or "
        "`20,research=100`. Default: any amount",
    )
    guardrails_enabled: bool = Field(
        True,
        alias="GUARDRAILS_ENABLED",
        description="false: the settings GUARDRAILS_MAX_... have no effect. Limits of SetSpendingLimit apply anyway",
    )


class Chosen(Protocol):
    """The settings that become limits and quotas."""

    limit_policy: Policy
    guardrails_enabled: bool
    project_max_gpus: str
    project_max_price_per_hour: str


def guardrail_fields() -> dict[str, tuple[Any, FieldInfo]]:
    """The fields of GUARDRAILS_MAX_<WINDOW>_RATE."""
    return {
        _field(name): (
            float,
            FieldInfo(
                default=0.0,
                ge=0,
                le=_MOST,
                allow_inf_nan=False,
                alias=f"GUARDRAILS_MAX_{name}_RATE",
                validation_alias=f"GUARDRAILS_MAX_{name}_RATE",  # without it, errors show a generated name
                description=f"the most that all projects together may spend within {name.lower()}, in USD; 0: no limit",
            ),
        )
        for name in GUARDRAILS
    }


def limits_of(settings: Chosen) -> tuple[SpendingLimit, ...]:
    """The limits that an operator set, named as the settings."""
    if not settings.guardrails_enabled:
        return ()
    given = {name: getattr(settings, _field(name), 0.0) for name in GUARDRAILS}
    amounts = {name: max(micro(usd), Micro(1)) if usd > 0 else Micro(0) for name, usd in given.items()}
    return tuple(_guardrail(name, amount, settings.limit_policy) for name, amount in amounts.items() if amount > 0)


def _guardrail(name: str, amount: Micro, policy: Policy) -> SpendingLimit:
    return SpendingLimit(
        scope="global", subject="", window=window(name), amount=amount, policy=policy, source="setting",
        name=f"GUARDRAILS_MAX_{name}_RATE",
    )  # fmt: skip


def quotas_of(settings: Chosen) -> tuple[Quota, ...]:
    """The quotas that an operator set. Raises ValueError."""
    gpus = _by_project("GPUPROXY_PROJECT_MAX_GPUS", settings.project_max_gpus, whole=True)
    rates = _by_project("GPUPROXY_PROJECT_MAX_PRICE_PER_HOUR", settings.project_max_price_per_hour, whole=False)
    return tuple(
        Quota(
            project=project,
            gpus=None if (most := gpus.get(project, gpus.get(""))) is None else int(most),
            rate=None if (dear := rates.get(project, rates.get(""))) is None else micro(dear),
        )
        for project in sorted(gpus.keys() | rates.keys())
    )


def _by_project(name: str, text: str, *, whole: bool) -> Mapping[str, float]:
    """The number of each project; "" is every other one."""
    found: dict[str, float] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        project, _, number = part.rpartition("=")
        try:
            value = float(int(number)) if whole else float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e9 or project.strip() in found:
            raise ValueError(f"{name}: {part!r} must be a number, or a project and a number: 8 or research=32")
        found[project.strip()] = value
    return found


def _field(name: str) -> str:
    return f"guardrails_max_{name.lower()}_rate"

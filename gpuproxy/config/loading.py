"""Reading the settings from the environment and `.env`, and checking whether a server can start with them.

An unknown name is an error and never ignored: a key under a wrong name would rent nothing, and a limit under a wrong
name would have no effect. `load_settings` checks the values. `check_start` checks what only a server needs: provider
keys, usable proxies, and loopback addresses for a scaled clock.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from gpuproxy.adapters.proxies import is_loopback
from gpuproxy.config.environment import ENV_FILE, ConfigError, read_environment
from gpuproxy.config.names import CLIENT_NAMES, PROXY_NAMES, first_wrong_name
from gpuproxy.config.settings import Settings, settings_class
from gpuproxy.model.errors import Refusal
from gpuproxy.model.strategies import strategy_by_name
from gpuproxy.ports import Descriptor


def load_settings(
    env: Mapping[str, str], env_file: Path | None = ENV_FILE, *, marketplaces: Sequence[Descriptor] = ()
) -> Settings:
    """Complete and consistent settings. Raises ConfigError for an unknown name or an invalid value.

    The settings of a marketplace are known names only if its descriptor is in `marketplaces`.
    """
    kind = settings_class(marketplaces)
    names = setting_names(kind)
    found = read_environment(env, env_file)
    if wrong := first_wrong_name(found, known_names(kind), [f"{each.env}_" for each in marketplaces]):
        raise ConfigError(wrong)
    values: dict[str, Any] = {name: value.strip() for name, value in found.items() if name in names}
    values |= {name: found[name.lower()].strip() for name in PROXY_NAMES if name.lower() in found}
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, kind))) from None


def check_start(settings: Settings, *, sandbox: bool) -> None:
    """Raise ConfigError if a server must not start with these settings."""
    _check_strategy(settings.lb_strategy)
    if sandbox:
        return
    if not settings.accounts:
        keys = " or ".join(f"{each.env}_API_KEY" for each in settings.marketplaces) or "one"
        raise ConfigError(
            f"No provider key is set: not started. Set {keys}, or use --sandbox, where nothing costs money."
        )
    check_proxies(settings)
    remote = [account for account in settings.accounts if not is_loopback(urlsplit(account.base_url).hostname or "")]
    if settings.time_scale != 1 and remote:
        raise ConfigError(
            f"GPUPROXY_TIME_SCALE is {settings.time_scale:g} but {remote[0].provider} is not on this machine: not "
            "started. A real marketplace runs in real time, so the scale must be 1."
        )


def check_proxies(settings: Settings) -> None:
    """Raise ConfigError if the calls to a marketplace would need a proxy that can't be used."""
    for account in settings.accounts:
        if problem := settings.unusable_proxy(settings.url_of(account)):
            raise ConfigError(
                f"{problem}: not started, because the calls to {account.provider} would use it. Correct or unset it, "
                f"or add {account.provider}'s host to NO_PROXY."
            )


def setting_names(kind: type[Settings]) -> frozenset[str]:
    """The names of the variables that a server with these settings reads."""
    return frozenset(info.alias for info in kind.model_fields.values() if info.alias)


def known_names(kind: type[Settings]) -> frozenset[str]:
    """The names of all variables that are accepted."""
    return setting_names(kind) | CLIENT_NAMES


def _check_strategy(name: str) -> None:
    try:
        strategy_by_name(name)
    except Refusal as error:
        raise ConfigError(f"GPUPROXY_LB_STRATEGY: {error.message}") from None


def _lines(error: ValidationError, kind: type[Settings]) -> list[str]:
    lines = []
    for detail in error.errors(include_url=False, include_input=False):
        place = str(detail["loc"][0]) if detail["loc"] else ""
        name = kind.model_fields[place].alias if place in kind.model_fields else place
        text = detail["msg"].removeprefix("Value error, ")
        lines.append(f"{name}: {text}" if name else text)
    return lines

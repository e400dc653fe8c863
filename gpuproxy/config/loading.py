"""Reading settings: from the environment and `.env`, once, and whether a server may start with them.

A name that nobody reads is a mistake, never ignored: a key under the wrong name would rent nothing, and a limit under
the wrong name would limit nothing. Values are judged by `load_settings`. What else a start needs (keys, loopback for a
scaled clock) is judged by `check_start`, because it depends on the command.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from gpuproxy.config.env_file import values_in
from gpuproxy.config.names import CLIENT_NAMES, NOT_BUILT_NAMES, first_wrong_name
from gpuproxy.config.settings import ConfigError, Settings, settings_class
from gpuproxy.config.values import is_loopback
from gpuproxy.model.errors import Refusal
from gpuproxy.model.strategies import strategy_by_name
from gpuproxy.ports import Descriptor

ENV_FILE = Path(".env")


def read_environment(env: Mapping[str, str], env_file: Path | None = ENV_FILE) -> dict[str, str]:
    """Variables of `.env`, under those of the environment, without empty ones; raises ConfigError for bad lines."""
    try:
        from_file = values_in(env_file) if env_file is not None and env_file.is_file() else {}
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return {name: value for name, value in {**from_file, **env}.items() if value.strip()}


def load_settings(
    env: Mapping[str, str], env_file: Path | None = ENV_FILE, *, marketplaces: Sequence[Descriptor] = ()
) -> Settings:
    """Settings that are whole and consistent; raises ConfigError for a wrong name or value.

    Of the marketplaces' settings, only those of `marketplaces` are known names.
    """
    kind = settings_class(marketplaces)
    names = setting_names(kind)
    found = read_environment(env, env_file)
    if wrong := first_wrong_name(found, known_names(kind), [f"{each.env}_" for each in marketplaces]):
        raise ConfigError(wrong)
    if limits := sorted(
        name for name, value in found.items() if name.startswith("GUARDRAILS_") and value.strip() != "0"
    ):
        raise ConfigError(
            f"{limits[0]} is set but spending limits are not built yet: not started. It would limit nothing."
        )
    values: dict[str, Any] = {name: value.strip() for name, value in found.items() if name in names}
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, kind))) from None


def check_start(settings: Settings, *, sandbox: bool) -> None:
    """Raise ConfigError when a server must not be started with these settings."""
    _check_strategy(settings.lb_strategy)
    if sandbox:
        return
    if not settings.accounts:
        keys = " or ".join(f"{each.env}_API_KEY" for each in settings.marketplaces) or "one"
        raise ConfigError(
            f"No provider key is set: not started. Set {keys}, or use --sandbox, where nothing costs money."
        )
    remote = [account for account in settings.accounts if not is_loopback(urlsplit(account.base_url).hostname or "")]
    if settings.time_scale != 1 and remote:
        raise ConfigError(
            f"GPUPROXY_TIME_SCALE is {settings.time_scale:g} but {remote[0].provider} is not on this machine: not "
            "started. A real marketplace runs in real time."
        )


def setting_names(kind: type[Settings]) -> frozenset[str]:
    """The variables that a server with these settings reads."""
    return frozenset(info.alias for info in kind.model_fields.values() if info.alias)


def known_names(kind: type[Settings]) -> frozenset[str]:
    """Every variable that is not a mistake."""
    return setting_names(kind) | CLIENT_NAMES | NOT_BUILT_NAMES


def without_effect(env: Mapping[str, str], settings: Settings, env_file: Path | None = ENV_FILE) -> list[str]:
    """The variables that are set for something that is not built yet."""
    unused = NOT_BUILT_NAMES - setting_names(type(settings))
    return sorted(name for name in read_environment(env, env_file) if name in unused)


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

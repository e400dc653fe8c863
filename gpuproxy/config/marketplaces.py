"""The settings of marketplaces: the fields that a descriptor adds, and the values that an operator chose."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gpuproxy.config import checks
from gpuproxy.config.values import Keys, Names, Seconds
from gpuproxy.ports import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One API key at one marketplace. Clients and logs show `name`."""

    provider: str
    name: str
    key: str = field(repr=False)
    region: str = ""
    projects: tuple[str, ...] = ()
    """The only projects that it rents for; empty: all."""
    base_url: str = ""
    """Empty: the URL of the real service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The settings of one marketplace, as an operator chose them."""

    marketplace: Descriptor
    keys: tuple[str, ...] = field(repr=False)
    names: tuple[str, ...]
    regions: tuple[str, ...]
    projects: tuple[str, ...]
    url: str
    intervals: Mapping[str, float]
    """Minimum interval in seconds by the name of the call; only those that are set."""

    @property
    def accounts(self) -> tuple[Account, ...]:
        """One account for each key, in the order of the keys."""
        return tuple(
            Account(
                provider=self.marketplace.name,
                name=(self.names[i] if i < len(self.names) else "") or f"{self.marketplace.prefix}-{i + 1}",
                key=key,
                region=self.regions[i] if i < len(self.regions) else "",
                projects=_several(self.projects[i]) if i < len(self.projects) else (),
                base_url=self.url,
            )
            for i, key in enumerate(self.keys)
        )

    def check(self) -> None:
        """Raise ValueError for a wrong URL, two accounts with the same key or name, or more names than keys."""
        example = self.marketplace.url or "http://127.0.0.1:9400"
        checks.check_base_url(f"GPUPROXY_{self.marketplace.env}_URL", self.url, example)
        names = [account.name for account in self.accounts]
        if len(self.projects) > len(self.keys):
            raise ValueError(f"{self.marketplace.env}_API_KEY_PROJECTS: has more entries than there are keys")
        checks.check_accounts(f"{self.marketplace.env}_API_KEY", self.keys, names, self.names, self.regions)


def fields_for(marketplace: Descriptor) -> dict[str, tuple[Any, FieldInfo]]:
    """The pydantic fields of its settings: type and info by field name. The alias of a field is its variable."""
    name, env = marketplace.name, marketplace.env
    only, prefer = "only the accounts of an offer's region rent it", "offers of a region prefer its accounts"
    effect = only if marketplace.regional else prefer
    regions = f"account regions, in the order of the keys; {effect}: [more](marketplace-accounts.md#regions)"
    fields: dict[str, tuple[Any, FieldInfo]] = dict(
        (
            _field(f"{env}_API_KEY", Keys, (), f"{name} API keys, comma separated; each key is an account"),
            _field(
                f"{env}_API_KEY_NAMES",
                Names,
                (),
                "account names, in the order of the keys "
                f"(default `{marketplace.prefix}-1`, `{marketplace.prefix}-2`, ...)",
            ),
            _field(f"{env}_API_KEY_REGIONS", Names, (), regions),
            _field(
                f"{env}_API_KEY_PROJECTS",
                Names,
                (),
                "projects that an account rents for, in the order of the keys; several are joined by `+`. Any project "
                "may use an account without: [more](marketplace-accounts.md#accounts-of-projects)",
            ),
            _field(f"GPUPROXY_{env}_URL", str, "", f"base URL instead of {name}'s own, for example a sandbox"),
        )
    )
    for call in marketplace.calls:
        usual = f"{call.seconds:g} s; 0: no limit" if call.seconds else "0 (no limit)"
        text = f"minimum interval between {call.what} of one account; default {usual}"
        fields |= [_field(f"GPUPROXY_{env}_{call.name.upper()}_INTERVAL", Seconds | None, None, text)]
    return fields


def chosen_for(marketplace: Descriptor, settings: BaseModel) -> Chosen:
    """The values in `settings`, which must have the fields of `fields_for`."""

    def value(variable: str) -> Any:
        return getattr(settings, _field_name(variable))

    env = marketplace.env
    intervals = {call.name: value(f"GPUPROXY_{env}_{call.name.upper()}_INTERVAL") for call in marketplace.calls}
    return Chosen(
        marketplace=marketplace,
        keys=tuple(key.get_secret_value() for key in value(f"{env}_API_KEY")),
        names=value(f"{env}_API_KEY_NAMES"),
        regions=value(f"{env}_API_KEY_REGIONS"),
        projects=value(f"{env}_API_KEY_PROJECTS"),
        url=value(f"GPUPROXY_{env}_URL"),
        intervals={name: seconds for name, seconds in intervals.items() if seconds is not None},
    )


def _several(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("+") if part.strip())


def _field(variable: str, kind: Any, default: object, text: str) -> tuple[str, tuple[Any, FieldInfo]]:
    info = FieldInfo(default=default, alias=variable, validation_alias=variable, description=text)
    return _field_name(variable), (kind, info)


def _field_name(variable: str) -> str:
    return variable.removeprefix("GPUPROXY_").lower()

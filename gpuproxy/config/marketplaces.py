"""The settings of marketplaces: which there are by a descriptor, and what an operator chose with them."""

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
    """One key at one marketplace; `name` is what clients and logs see."""

    provider: str
    name: str
    key: str = field(repr=False)
    region: str = ""
    base_url: str = ""
    """Empty: the real service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What an operator set for one marketplace."""

    marketplace: Descriptor
    keys: tuple[str, ...] = field(repr=False)
    names: tuple[str, ...]
    regions: tuple[str, ...]
    url: str
    intervals: Mapping[str, float]
    """Seconds by call; only those that are set."""

    @property
    def accounts(self) -> tuple[Account, ...]:
        """One for each key, in the order given."""
        return tuple(
            Account(
                provider=self.marketplace.name,
                name=(self.names[i] if i < len(self.names) else "") or f"{self.marketplace.prefix}-{i + 1}",
                key=key,
                region=self.regions[i] if i < len(self.regions) else "",
                base_url=self.url,
            )
            for i, key in enumerate(self.keys)
        )

    def check(self) -> None:
        """Raise ValueError for accounts that can't be told apart, or positions without a key."""
        names = [account.name for account in self.accounts]
        checks.check_accounts(f"{self.marketplace.env}_API_KEY", self.keys, names, self.names, self.regions)


def fields_for(marketplace: Descriptor) -> dict[str, tuple[Any, FieldInfo]]:
    """Fields for pydantic: the type and the info of each, whose alias is the variable."""
    name, env = marketplace.name, marketplace.env
    unused = "" if marketplace.regional else f"; not used by {name}"
    fields: dict[str, tuple[Any, FieldInfo]] = dict(
        (
            _field(f"{env}_API_KEY", Keys, (), f"{name} API keys, comma separated; each is an account"),
            _field(
                f"{env}_API_KEY_NAMES",
                Names,
                (),
                "names of the accounts, in the order of the keys "
                f"(default `{marketplace.prefix}-1`, `{marketplace.prefix}-2`, ...)",
            ),
            _field(f"{env}_API_KEY_REGIONS", Names, (), f"regions of the accounts, in the order of the keys{unused}"),
            _field(f"GPUPROXY_{env}_URL", str, "", f"base address in place of {name}'s, such as a sandbox's"),
        )
    )
    for call in marketplace.calls:
        usual = f"{call.seconds:g} s; 0: no limit" if call.seconds else "0: no limit"
        text = f"interval between {call.what} of an account; default {usual}"
        fields |= [_field(f"GPUPROXY_{env}_{call.name.upper()}_INTERVAL", Seconds | None, None, text)]
    return fields


def chosen_for(marketplace: Descriptor, settings: BaseModel) -> Chosen:
    """What `settings` say; they have the fields of `fields_for`."""

    def value(variable: str) -> Any:
        return getattr(settings, _field_name(variable))

    env = marketplace.env
    intervals = {call.name: value(f"GPUPROXY_{env}_{call.name.upper()}_INTERVAL") for call in marketplace.calls}
    return Chosen(
        marketplace=marketplace,
        keys=tuple(key.get_secret_value() for key in value(f"{env}_API_KEY")),
        names=value(f"{env}_API_KEY_NAMES"),
        regions=value(f"{env}_API_KEY_REGIONS"),
        url=value(f"GPUPROXY_{env}_URL"),
        intervals={name: seconds for name, seconds in intervals.items() if seconds is not None},
    )


def _field(variable: str, kind: Any, default: object, text: str) -> tuple[str, tuple[Any, FieldInfo]]:
    return _field_name(variable), (kind, FieldInfo(default=default, alias=variable, description=text))


def _field_name(variable: str) -> str:
    return variable.removeprefix("GPUPROXY_").lower()

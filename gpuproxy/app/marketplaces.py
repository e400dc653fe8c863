"""The installed marketplaces: the descriptors of all adapters, found by their entry points.

The rule: an adapter that can't be loaded prevents startup. Otherwise its settings would be unknown names, and its
machines would not be managed.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint

from gpuproxy.app.entry_points import points
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.marketplaces import Account
from gpuproxy.config.settings import Settings
from gpuproxy.model.offers import ProviderName
from gpuproxy.ports import Descriptor
from gpuproxy.ports.descriptor import GROUP
from gpuproxy.runtime.regions import Regions
from gpuproxy.sandbox import dialects

SANDBOX_KEY = "sandbox-key"
SANDBOX_ACCOUNT = "sandbox-1"


def installed() -> tuple[Descriptor, ...]:
    """The descriptors of the installed marketplaces, sorted by name. Raises ConfigError if one can't be used."""
    found = tuple(_loaded(point) for point in points())
    for what in ("name", "prefix", "env"):
        values = [getattr(each, what) for each in found]
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise ConfigError(
                f"Two installed marketplaces use the same {what}, {twice!r}: not started. Uninstall one of them."
            )
    return found


def sandbox_accounts(marketplaces: Sequence[Descriptor], url: str) -> tuple[Account, ...]:
    """An account for each marketplace whose API the sandbox at `url` speaks. Raises ConfigError if there is none."""
    spoken = in_sandbox(marketplaces)
    if not spoken:
        raise ConfigError("The sandbox can't simulate any of the installed marketplaces: not started.")
    return tuple(Account(provider=each.name, name=SANDBOX_ACCOUNT, key=SANDBOX_KEY, base_url=url) for each in spoken)


def proxies_in_use(settings: Settings, accounts: Sequence[Account]) -> Mapping[str, str]:
    """The host and port of the HTTP proxy, by marketplace. Without those that are connected directly."""
    used, proxies = {}, settings.proxies
    for account in accounts:
        proxy = proxies.for_url(settings.url_of(account))
        if proxy is not None:
            used[account.provider] = proxy.place
    return used


def regions_of(settings: Settings) -> Regions:
    """The regions and projects of the configured accounts."""
    return Regions(
        of={(ProviderName(each.provider), each.name): each.region for each in settings.accounts if each.region},
        regional=frozenset(each.name for each in settings.marketplaces if each.regional),
        projects={
            (ProviderName(each.provider), each.name): each.projects for each in settings.accounts if each.projects
        },
    )


def in_sandbox(marketplaces: Sequence[Descriptor]) -> tuple[Descriptor, ...]:
    """The marketplaces whose API the sandbox speaks."""
    return tuple(each for each in marketplaces if each.name in dialects.MARKETPLACES)


def _loaded(point: EntryPoint) -> Descriptor:
    what = f"The entry point {point.name} of {GROUP} ({point.value})"
    try:
        descriptor = point.load()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{what} can't be loaded: {error}: not started.") from error
    if not isinstance(descriptor, Descriptor):
        raise ConfigError(f"{what} is not a gpuproxy.ports.Descriptor: not started.")
    if descriptor.name != point.name:
        raise ConfigError(
            f"{what} has the descriptor of {descriptor.name}: not started. Rename the entry point to {descriptor.name}."
        )
    return descriptor

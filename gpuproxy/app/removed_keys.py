"""The check at the start that no key was removed or exchanged whose account still has machines."""

import asyncio
import json
from collections.abc import Sequence

import structlog

from gpuproxy.app.deployment import WrongDatabase
from gpuproxy.health import left_behind
from gpuproxy.model.errors import AuthFailed, ProviderError
from gpuproxy.model.offers import AccountKey, ProviderName
from gpuproxy.ports import Capabilities, Database, Descriptor, Inventory, Provider, Tx
from gpuproxy.reconcile.account_identity import AccountIdentity
from gpuproxy.runtime.keyless import Keyless
from gpuproxy.store import meta

log = structlog.get_logger(__name__)

_SECONDS = 10.0
"""Real seconds for which the start waits for marketplaces to say whose the keys are. Without an answer, it goes on."""
_NEVERTHELESS = (
    "To start nevertheless, use `gpuproxy serve --force`: what these accounts have goes on costing money, and "
    "`gpuproxy doctor` lists it."
)


async def claim_accounts(
    db: Database, providers: Sequence[Provider], marketplaces: Sequence[Descriptor], *, force: bool
) -> list[Keyless]:
    """Store the configured accounts, for commands that run without them. Returns a Provider for each removed account.

    Raises WrongDatabase if an account that still has something is not configured, or if its name has the key of
    another account. With `force`, this is only logged.
    """
    configured = frozenset((each.name, each.account) for each in providers)
    problems = [await db.read(lambda tx: left_behind.refusal(tx, configured)), *await _exchanged(db, providers)]
    for problem in filter(None, problems):
        if not force:
            raise WrongDatabase(f"Not started: {problem} {_NEVERTHELESS}")
        log.warning("started_without_accounts", problem=problem)
    stored = json.dumps(sorted(configured))
    await db.write(lambda tx: meta.write(tx, meta.ACCOUNTS, stored))
    missing = await db.read(left_behind.accounts) - configured
    capabilities = {each.name: each.capabilities for each in marketplaces}
    return [Keyless(name, account, capabilities.get(name, Capabilities())) for name, account in sorted(missing)]


def last_accounts(tx: Tx) -> frozenset[AccountKey]:
    """The accounts of the server that was started last on this database."""
    stored = json.loads(meta.read(tx, meta.ACCOUNTS) or "[]")
    return frozenset((ProviderName(provider), name) for provider, name in stored)


async def _exchanged(db: Database, providers: Sequence[Provider]) -> list[str]:
    """A text for each account in use whose name has the key of another account."""
    in_use = await db.read(left_behind.accounts)
    checked = [each for each in providers if (each.name, each.account) in in_use]
    checks = [asyncio.ensure_future(_mismatch(db, each)) for each in checked]
    if not checks:
        return []
    done, late = await asyncio.wait(checks, timeout=_SECONDS)
    for check in late:
        check.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return [text for check in checks if check in done and (text := check.result())]


async def _mismatch(db: Database, provider: Provider) -> str:
    """Why the key is another account's; "" if it is not, or if the marketplace does not tell."""
    identity = AccountIdentity(provider, db)
    try:
        doubt = await identity.doubt()
        found = await _listed(provider) if doubt is not None and "credit" in provider.capabilities.missing else None
        if doubt is not None and found is not None:
            await identity.vouch(found, doubt)
    except AuthFailed as error:
        has = await db.read(lambda tx: left_behind.in_words(tx, (provider.name, provider.account)))
        return (
            f"{error}. {provider.name} account {provider.account} has {has}, which can't be released with this key. If "
            "a key was removed, the default names of the keys behind it have changed: give the accounts names that "
            "stay."
        )
    except ProviderError:
        return ""
    return ""


async def _listed(provider: Provider) -> Inventory | None:
    try:
        return await provider.list()
    except ProviderError:
        return None

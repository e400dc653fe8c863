"""Whose key it is that an account is used with: a listing with somebody else's shows none of our machines.

A key that changed places would make every machine count as lost. So before the first listing is believed, the
marketplace is asked whose the key is; where it can't say, a listing is believed that shows a machine of ours.
"""

from collections.abc import Sequence

from gpuproxy.model.errors import AuthFailed, ProviderError, ProviderUnavailable
from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Database, ListedInstance, Provider, Tx
from gpuproxy.store import leases, meta


class Whose:
    """One account, and who the marketplace says it is."""

    def __init__(self, provider: Provider, db: Database) -> None:
        self._provider = provider
        self._account: AccountKey = (provider.name, provider.account)
        self._db = db
        self._owner = ""
        """Once the marketplace has said so."""

    @property
    def is_known(self) -> bool:
        """True once the marketplace has said whose key it is, and that it is the right one."""
        return bool(self._owner)

    async def doubt(self) -> ProviderError | None:
        """Raises AuthFailed for a key of another account than the one that what is live was rented with.

        Returns the error where the marketplace can't say whose key it is and something is rented with the account.
        """
        if self._owner:
            return None
        known = await self._db.read(lambda tx: self._known(tx) if leases.live(tx, *self._account) else None)
        try:
            owner = (await self._provider.spend()).owner
        except ProviderError as error:  # a key that may not ask this, among others
            return error if known else None
        if known and not owner:
            return ProviderUnavailable(f"{self._provider.name} does not say whose key it is")
        if known and owner != known:
            name = self._provider.account
            raise AuthFailed(
                f"the key that is set for {name} belongs to account {owner}, and what is rented under this name to "
                f"account {known}: set that account's key under this name again"
            )
        self._owner = owner
        return None

    async def shows_ours(self, instances: Sequence[ListedInstance]) -> bool:
        """Whether a machine that is rented with this account is among these: then it is that account's listing."""
        labels = {instance.label for instance in instances}
        return any(lease.label in labels for lease in await self._db.read(lambda tx: leases.live(tx, *self._account)))

    def note(self, tx: Tx) -> None:
        """Remember whose key was used under the account's name last."""
        if self._owner and self._known(tx) != self._owner:
            meta.write(tx, self._key, self._owner)

    def _known(self, tx: Tx) -> str | None:
        return meta.read(tx, self._key)

    @property
    def _key(self) -> str:
        return f"owner:{self._account[0]}:{self._account[1]}"

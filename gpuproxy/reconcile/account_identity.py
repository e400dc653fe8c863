"""Check that the configured key belongs to the account that its machines were rented with.

The listing of another account shows none of our machines. If two keys were swapped in the settings, every machine would
count as lost. So before the first listing is believed, the marketplace is asked which account the key belongs to. If it
can't answer, a listing is believed only if it shows one of our machines.
"""

from collections.abc import Sequence

from gpuproxy.model.errors import AuthFailed, ProviderError, ProviderUnavailable
from gpuproxy.model.leases import KINDS, LeaseKind
from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Database, ListedInstance, Provider, Tx
from gpuproxy.store import leases, meta


class AccountIdentity:
    """The identity of one account, as the marketplace gives it."""

    def __init__(self, provider: Provider, db: Database, kind: LeaseKind = "machine") -> None:
        """`kind`: whether the listings are of machines or of volumes."""
        self._provider = provider
        self._account: AccountKey = (provider.name, provider.account)
        self._db = db
        self._kind = kind
        self._owner = ""
        """The marketplace's id of the account; "" until it is known."""

    @property
    def is_known(self) -> bool:
        """True once the marketplace has confirmed that the key belongs to the right account."""
        return bool(self._owner)

    async def doubt(self) -> ProviderError | None:
        """The error of a marketplace that can't identify the account although machines are rented with it; else None.

        Raises AuthFailed if the key belongs to another account than the live machines.
        """
        if self._owner or "credit" in self._provider.capabilities.missing:  # nothing identifies the account
            return None
        known = await self._db.read(lambda tx: self._known(tx) if self._rents(tx) else None)
        try:
            owner = (await self._provider.spend()).owner
        except ProviderError as error:  # a key that may not ask this, among others
            return error if known else None
        if known and not owner:
            return ProviderUnavailable(f"{self._provider.name} does not tell which account the key belongs to")
        if known and owner != known:
            name = self._provider.account
            raise AuthFailed(
                f"the key of {name} belongs to account {owner}, but the machines rented under this name belong to "
                f"account {known}: set the key of account {known} under this name"
            )
        self._owner = owner
        return None

    async def lists_our_machines(self, instances: Sequence[ListedInstance]) -> bool:
        """Whether a machine rented with this account is among `instances`: then the listing is of this account."""
        labels = {instance.label for instance in instances}
        return any(
            lease.label in labels
            for lease in await self._db.read(lambda tx: leases.live(tx, *self._account, self._kind))
        )

    def note(self, tx: Tx) -> None:
        """Store which account the key belongs to."""
        if self._owner and self._known(tx) != self._owner:
            meta.write(tx, self._key, self._owner)

    def _rents(self, tx: Tx) -> bool:
        return any(leases.live(tx, *self._account, kind) for kind in KINDS)

    def _known(self, tx: Tx) -> str | None:
        return meta.read(tx, self._key)

    @property
    def _key(self) -> str:
        return f"owner:{self._account[0]}:{self._account[1]}"

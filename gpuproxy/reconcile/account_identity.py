"""Check that the configured key belongs to the account that its machines were rented with.

The listing of another account shows none of our machines. If two keys were swapped in the settings, every machine would
count as lost. So before the first listing is believed, the marketplace is asked which account the key belongs to. If it
can't answer, a listing is believed only if it shows one of our machines.

Some marketplaces never tell whose a key is. Where machines are paid in advance there, a process that finds machines of
an earlier one believes no listing before one shows such a machine, or before their bookings are over: then they have
ended in any case. Machines that are billed by use would have no such end, so nothing is doubted there.

Such a machine is one that a believed listing has shown before, to this process or to another one. So the key lists the
same account as the key of that listing. Any other machine proves nothing: it is listed with the key of its create.
"""

from gpuproxy.model.errors import AuthFailed, ProviderError, ProviderUnavailable
from gpuproxy.model.leases import KINDS, RENTED, Lease, LeaseKind, LeaseState
from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Database, Inventory, Provider, Tx
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
        self._listed = False
        """A machine was listed or, at first, there was none to list."""

    @property
    def is_known(self) -> bool:
        """True once the marketplace has confirmed that the key belongs to the right account."""
        return bool(self._owner)

    async def doubt(self) -> ProviderError | None:
        """The error of a marketplace that can't identify the account although machines are rented with it; else None.

        Raises AuthFailed if the key belongs to another account than the live machines.
        """
        if self._owner:
            return None
        if "credit" in self._provider.capabilities.missing:  # nothing identifies the account but its machines
            return await self._unlisted()
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

    async def vouch(self, found: Inventory, doubt: ProviderError) -> None:
        """Return if `found` shows a machine that a believed listing of this account has shown, also an ended one.

        Raises AuthFailed if it shows machines of another account instead, and `doubt` if it shows neither.
        """
        labels = found.ended | {instance.label for instance in found.instances}
        shown = [lease for lease in await self._db.read(self._live) if lease.label in labels]
        own = [lease for lease in shown if lease.account == self._account[1]]
        if any(lease.observed.seen_at is not None for lease in own):
            self._listed = True
            return
        others = sorted({lease.account for lease in shown if lease.state in RENTED} - {self._account[1]})
        if others:
            raise AuthFailed(
                f"the key of {self._account[1]} lists none of its machines, but machines that were rented with "
                f"{others[0]}: set each key under the name that it had before"
            )
        raise doubt

    async def _unlisted(self) -> ProviderError | None:
        """The doubt of a process that has found booked machines, as long as no listing has shown one of them."""
        if self._listed or not await self._db.read(self._has_booked):
            self._listed = True  # what is booked from now on is booked with this key
            return None
        return ProviderUnavailable(
            f"{self._provider.name} does not tell whose key it is, and lists none of the machines that are booked with "
            f"{self._account[1]}. If the key of another account is set under this name, correct that"
        )

    def _has_booked(self, tx: Tx) -> bool:
        """Whether a machine that was listed before is booked for now."""
        return any(
            (lease.state in RENTED or lease.state is LeaseState.RELEASING)
            and lease.observed.seen_at is not None
            and lease.prepaid.booked_until is not None
            and lease.prepaid.booked_until > tx.now()
            for lease in leases.live(tx, *self._account, self._kind)
        )

    def note(self, tx: Tx) -> None:
        """Store which account the key belongs to."""
        if self._owner and self._known(tx) != self._owner:
            meta.write(tx, self._key, self._owner)

    def _live(self, tx: Tx) -> list[Lease]:
        """The live leases of all accounts of the marketplace."""
        accounts = sorted(each for each in leases.live_accounts(tx) if each[0] == self._account[0])
        return [lease for account in accounts for lease in leases.live(tx, *account, self._kind)]

    def _rents(self, tx: Tx) -> bool:
        return any(leases.live(tx, *self._account, kind) for kind in KINDS)

    def _known(self, tx: Tx) -> str | None:
        return meta.read(tx, self._key)

    @property
    def _key(self) -> str:
        return f"owner:{self._account[0]}:{self._account[1]}"

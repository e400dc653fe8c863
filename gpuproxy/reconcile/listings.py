"""A listing of an account, indexed by id and by label for the reconciler."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gpuproxy.model.leases import InstanceId, Lease
from gpuproxy.ports import ListedInstance


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything that the provider lists on the account, at or after `began_at`."""

    began_at: datetime
    instances: Sequence[ListedInstance]
    unreadable: tuple[str, ...] = ()
    """Rows that could not be decoded. While there are any, this listing alone proves no absence."""
    read: Sequence[ListedInstance] = ()
    """Machines that exist by single reads although the listing does not show them. They prove nothing about it."""
    ends_silence: bool = False
    """The listing before it failed: the marketplace answers again."""
    _by_id: dict[InstanceId, ListedInstance] = field(init=False, repr=False, compare=False)
    _by_label: dict[str, ListedInstance] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index by id and, separately, by label: a foreign label may look like one of our ids."""
        object.__setattr__(self, "_by_id", {instance.id: instance for instance in (*self.read, *self.instances)})
        labelled = {instance.label: instance for instance in reversed(self.instances) if instance.label}
        object.__setattr__(self, "_by_label", labelled)

    def shown(self, lease: Lease) -> ListedInstance | None:
        """The lease's machine: found by its id or, while the id is not known, by its label."""
        if lease.instance_id is None:
            return self._by_label.get(lease.label)
        return self._by_id.get(lease.instance_id)

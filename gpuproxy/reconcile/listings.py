"""A listing of an account as reconciling uses it: what exists, by id and by label."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gpuproxy.model.leases import InstanceId, Lease
from gpuproxy.ports import ListedInstance


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything that the provider says exists on the account, as of a moment not before `began_at`."""

    began_at: datetime
    instances: Sequence[ListedInstance]
    unreadable: tuple[str, ...] = ()
    """Rows that nobody can read: while there are any, this listing alone proves no absence."""
    read: Sequence[ListedInstance] = ()
    """Machines that it does not show and reads of their own do: they exist, and make the listing no better."""
    _by_id: dict[InstanceId, ListedInstance] = field(init=False, repr=False, compare=False)
    _by_label: dict[str, ListedInstance] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """By id and, of those that carry one, by label: a stranger's label may read like an id of ours."""
        object.__setattr__(self, "_by_id", {instance.id: instance for instance in (*self.read, *self.instances)})
        labelled = {instance.label: instance for instance in reversed(self.instances) if instance.label}
        object.__setattr__(self, "_by_label", labelled)

    def shown(self, lease: Lease) -> ListedInstance | None:
        """The lease's machine: by its id, and by its label while the id is not known."""
        if lease.instance_id is None:
            return self._by_label.get(lease.label)
        return self._by_id.get(lease.instance_id)

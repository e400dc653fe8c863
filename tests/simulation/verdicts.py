"""Which machines the program releases as NOT_READY although they can be used.

The market knows since when a machine runs and can be reached at an address that counts for its run type. It is asked
at the moment at which the release is committed, because a crash or a slow marketplace can delay the destroy.
"""

from gpuproxy.sandbox.market.addresses import run_kind
from gpuproxy.sandbox.market.instances import Instance
from tests import databases
from tests.world import World

WORKED = 60.0
"""A machine that could be used for so many seconds before its release, without a pause, is a working machine."""
_NEW = """
    SELECT events.seq, events.data, leases.id, leases.instance_id
    FROM events JOIN leases ON leases.id = events.lease_id
    WHERE events.seq > ? AND events.event = 'release' ORDER BY events.seq
"""


class Verdicts:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wrong: list[str] = []
        """Each release of a working machine as NOT_READY."""
        self._seq = 0
        world.after_writes.append(self._look)

    def _look(self) -> None:
        for seq, data, lease, instance_id in databases.rows(self.world.db, _NEW, (self._seq,)):
            self._seq = seq
            if '"NOT_READY"' in data and instance_id:
                self._judge(lease, int(instance_id))

    def _judge(self, lease: str, number: int) -> None:
        self.world.sandbox.tick()
        market = self.world.sandbox.market
        instance = market.instances.get(number)
        if instance is None or instance.works_since is None:
            return
        worked = market.now - instance.works_since
        if worked >= WORKED:
            direct = market.machines[instance.machine_id].direct_ports
            self.wrong.append(f"{lease}, {_described(instance, direct)}, had worked for {worked:.0f} s")


def _described(instance: Instance, direct_ports: int) -> str:
    what = f"{run_kind(instance.launch)} with ports {[*instance.ports]}"
    answers = instance.unreachable or "every address answers"
    return f"{what} on a host with {direct_ports} ports ({answers})"

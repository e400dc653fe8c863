"""The market: machines, instances and accounts, and how they change with time.

It is synchronous and does no I/O. The time is the last argument of `advance`, and the same seed always gives the same
behaviour. `changes` has everything that changed since the last save, so that saving costs only what changed.
"""

import hashlib
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count

from gpuproxy.sandbox.market.addresses import Addresses, register_key, run_kind, run_onstart
from gpuproxy.sandbox.market.changes import Changes
from gpuproxy.sandbox.market.contract_ends import ContractEnds
from gpuproxy.sandbox.market.contracts import contract, ended_contract
from gpuproxy.sandbox.market.defects import Chances, Defects
from gpuproxy.sandbox.market.instances import HOLDS_GPU, Ended, Instance, InstanceDefects, Launch, Phase
from gpuproxy.sandbox.market.machines import Blueprint, Chunk, Machine, build
from gpuproxy.sandbox.market.port_table import PortTable
from gpuproxy.sandbox.market.refusals import NoCredit, NoSuchAsk, NotRentable
from gpuproxy.sandbox.market.starts import Binding, Starts
from gpuproxy.sandbox.market.troubles import Troubles
from gpuproxy.sandbox.market.volumes import Volume, Volumes
from gpuproxy.sandbox.market.workloads import Workloads

FIRST_OFFER_ID = 39_000_000
FIRST_CONTRACT_ID = 27_000_000
_FIRST_GPU_ID = 100_000
_OUT_OF_FUNDS_EVERY = 60.0
_DAY = 86400.0


class SimulatedMarket:
    """One simulated market for all accounts."""

    def __init__(
        self,
        blueprints: Iterable[tuple[Blueprint, int]],
        accounts: Sequence[str],
        *,
        now: float,
        seed: int = 7,
        boot_time: tuple[float, float] = (20.0, 60.0),
        credit: int = 100_000_000_000,
        chances: Chances = Chances(),  # noqa: B008 - immutable
        port_table: PortTable | None = None,
        standby_binding: Binding = "chunk",
    ) -> None:
        """`blueprints` has pairs of a machine and the number of its first GPUs that other customers have.

        `credit` is in micro-dollars. `standby_binding` says on which GPUs a stopped instance can start.
        """
        self.now = now
        self.accounts = tuple(accounts)
        self._addresses = Addresses(port_table or PortTable())
        self.instances: dict[int, Instance] = {}
        self.ended: list[Ended] = []
        self.printed: dict[int, deque[str]] = {}
        """What the start script of an instance printed, by id. Not saved."""
        self.troubles = Troubles(self)
        self._starts = Starts(self, standby_binding)
        self.changes = Changes()
        self._seed = seed
        self._boot_time = boot_time
        self._credit = credit
        self._spent: dict[str, int] = dict.fromkeys(accounts, 0)  # by ended instances
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = count()
        self._funds_checked = self._ends_checked = -math.inf
        self.next_contract_id = FIRST_CONTRACT_ID
        self.defects = Defects(self.changes, seed, chances)
        self._build(blueprints)
        self.contract_ends = ContractEnds(self)
        self.volumes = Volumes(self)
        self.workloads = Workloads(self)

    # -- time

    def advance(self, now: float) -> None:
        """Advance the time to `now`; due events run in order, each at its own time. The time never goes back."""
        while self._timers and self._timers[0][0] <= now:
            when, _, happen = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            happen()
        self.now = max(self.now, now)
        if self.now - self._funds_checked >= _OUT_OF_FUNDS_EVERY:
            self._funds_checked = self.now
            self._stop_without_credit()
        if self.now - self._ends_checked >= _DAY:
            self._ends_checked = self.now
            self.contract_ends.offer_longer()

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Run `happen` at the market's time `when`."""
        heapq.heappush(self._timers, (when, next(self._timer_numbers), happen))

    # -- calls of accounts

    def rent(self, account: str, offer_id: int, launch: Launch, defects: InstanceDefects | None = None) -> Instance:
        """Create an instance on the offer's GPUs. Raises NoSuchAsk, NotRentable or NoCredit without any change."""
        chunk = self.chunks.get(offer_id)
        if chunk is None:
            raise NoSuchAsk
        if not chunk.rentable:
            raise NotRentable
        if self.credit(account) <= 0:
            raise NoCredit
        instance = self._instance(account, chunk, launch, defects or InstanceDefects())
        self.instances[instance.id] = instance
        self.contract_ends.follow(instance)
        if launch.stopped or (instance.failure is not None and instance.failure.stopped):
            instance.phase = Phase.STOPPED
            self._relist(chunk.machine, chunk.mask)
        else:
            self.boot(instance, never_ready=defects is not None and defects.never_ready)
        return instance

    def stop(self, instance: Instance) -> None:
        """Stop an instance: its GPUs become free, its disk stays, and a queued start is cancelled."""
        self._leave(instance, Phase.STOPPED)
        instance.interrupted = False

    def start(self, instance: Instance, *, refuse_for: float = 0.0) -> bool:
        """Start an instance. False if its GPUs are in use, or for `refuse_for` seconds; then the start is queued."""
        if instance.phase in (Phase.LOADING, Phase.RUNNING):
            if instance.pretends:
                self.troubles.come_back(instance)
            return True
        return self._starts.start(instance, refuse_for=refuse_for)

    def restart(self, instance: Instance, transient: str) -> bool:
        """Restart the container, with the first status `transient` (rebooting, recycling); False without GPUs."""
        if instance.phase not in HOLDS_GPU or instance.pretends:
            return False
        self._enter(instance, Phase.EXITED)
        self.boot(instance)
        instance.transient = transient
        return True

    def bid(self, instance: Instance, price: int | None) -> None:
        """Set a bid in micro-dollars per hour (None: the minimum). A lower one interrupts; a higher one resumes."""
        least = self.chunk_of(instance).min_bid
        price = least if price is None else price
        self.accrue(instance)
        instance.reprice(price)
        if price < least and instance.phase in HOLDS_GPU:
            self._leave(instance, Phase.STOPPED)
            instance.interrupted = True
        elif price >= least and instance.interrupted:
            self.start(instance)

    def label(self, instance: Instance, label: str | None) -> None:
        """Set the label to any text. Labels don't have to be unique."""
        instance.label = label
        self.changes.instances.add(instance.id)

    def add_key(self, instance: Instance, public_key: str) -> None:
        """Register a public SSH key for an instance."""
        register_key(instance, public_key)
        self.changes.instances.add(instance.id)

    def destroy(self, instance: Instance) -> None:
        """Destroy an instance for good. Its GPUs are offered again under new ids."""
        self._leave(instance, Phase.DESTROYED)
        self._addresses.take_back(instance)
        billed = self.billed(instance)
        del self.instances[instance.id]
        self.volumes.released(instance)
        self._spent[instance.account] = self._spent.get(instance.account, 0) + billed
        ended = ended_contract(instance, self.now, billed)
        self.ended.append(ended)
        self.changes.ended.append(ended)
        self.changes.instances.discard(instance.id)

    def credit(self, account: str) -> int:
        """The remaining credit of an account, in micro-dollars."""
        spent = self._spent.get(account, 0) + sum(self.billed(one) for one in self.of(account))
        return self._credit - spent - self.volumes.bill(account)

    def of(self, account: str) -> list[Instance]:
        """The instances of an account, oldest first."""
        return [instance for instance in self.instances.values() if instance.account == account]

    def billed(self, instance: Instance) -> int:
        """The cost of an instance up to now, in micro-dollars."""
        return instance.billed(self.now, online=self.online(instance))

    def online(self, instance: Instance) -> bool:
        """True while the instance's host is connected."""
        return self.machines[instance.machine_id].online

    def is_heard(self, instance: Instance) -> bool:
        """True if the instance runs, and its host and its network let its addresses answer."""
        return instance.phase is Phase.RUNNING and self.online(instance) and self.now >= instance.muted_until

    def bill(self) -> int:
        """The costs of all accounts in micro-dollars, including ended instances and deleted volumes."""
        ended = sum(ended.billed for ended in self.ended)
        return ended + sum(map(self.billed, self.instances.values())) + self.volumes.bill()

    def chunk_of(self, instance: Instance) -> Chunk:
        """The chunk that the instance has rented."""
        return next(one for one in self.machines[instance.machine_id].chunks if one.mask == instance.mask)

    # -- events of machines

    def occupy(self, machine: Machine, gpus: int, *, leave_after: float | None = None) -> int:
        """Let other customers rent up to `gpus` GPUs; returns how many they got."""
        taken = machine.take(gpus)
        self.hold(machine, taken, leave_after=leave_after)
        return taken.bit_count()

    def hold(self, machine: Machine, mask: int, *, leave_after: float | None = None) -> None:
        """Let other customers have these GPUs, for `leave_after` seconds or without an end."""
        machine.strangers |= mask
        self.changes.machines.add(machine.id)
        if leave_after is not None:
            self.at(self.now + leave_after, partial(self.vacate, machine, mask))

    def vacate(self, machine: Machine, mask: int = -1) -> None:
        """Let other customers leave these GPUs; the default is all GPUs."""
        machine.strangers &= ~mask
        self.changes.machines.add(machine.id)
        self._starts.start_queued(machine)

    def set_online(self, machine: Machine, *, online: bool) -> None:
        """Disconnect or reconnect a host."""
        for instance in self.on(machine):
            self.accrue(instance)
        self.volumes.accrue_on(machine.id)
        machine.online = online
        self.changes.machines.add(machine.id)
        for instance in self.on(machine):
            self.update_ports(instance)
        if online:
            self._starts.start_queued(machine)

    def container_dies(self, instance: Instance, why: str) -> None:
        """Let the container exit by itself. The contract keeps its GPUs."""
        if instance.pretends:
            self.stop(instance)
        elif instance.phase in HOLDS_GPU:
            self._enter(instance, Phase.EXITED)
            instance.status_msg = why

    def outbid(self, instance: Instance) -> None:
        """Let another customer outbid an instance: it is stopped, and the other customer gets its GPUs."""
        machine = self.machines[instance.machine_id]
        had = instance.mask if instance.phase in HOLDS_GPU else 0
        self._leave(instance, Phase.STOPPED, then_held=had)
        instance.interrupted = True
        self.hold(machine, had)

    def reprice(self, chunk: Chunk, price: int) -> None:
        """Set the price of a chunk, in micro-dollars per hour for all its GPUs. Existing instances keep their price."""
        chunk.price = price
        self.changes.machines.add(chunk.machine.id)

    # -- for the journal

    def restore(self, instances: Iterable[Instance], ended: Iterable[Ended], volumes: Iterable[Volume] = ()) -> None:
        """Restore a saved market. Ports get new numbers if the old ones are in use."""
        self.volumes.restore(volumes)
        for gone in ended:
            self.ended.append(gone)
            self._spent[gone.account] = self._spent.get(gone.account, 0) + gone.billed
        for instance in instances:
            machine = self.machines[instance.machine_id]
            self.instances[instance.id] = instance
            self._addresses.give_again(instance, machine.direct_ports)
            self.contract_ends.follow(instance)
            if instance.phase in HOLDS_GPU:
                machine.rented |= instance.mask
            if instance.phase is Phase.LOADING and instance.boot_at is not None:
                self.at(instance.boot_at, partial(self._runs, instance, instance.boot_at))
            elif instance.phase is Phase.QUEUED:
                self._starts.resume(instance)
            elif instance.phase is Phase.RUNNING:
                self.troubles.schedule(instance, instance.boot_at or self.now)
            self.update_ports(instance)
            self.troubles.resume(instance)
            self.workloads.resume(instance)

    def relisted(self, chunk: Chunk, offer_id: int) -> None:
        """Offer the chunk under this id from now on."""
        self.chunks.pop(chunk.offer_id, None)
        chunk.offer_id = offer_id
        self.chunks[offer_id] = chunk

    # -- internal

    def _build(self, blueprints: Iterable[tuple[Blueprint, int]]) -> None:
        offer_ids, gpu_ids = count(FIRST_OFFER_ID), count(_FIRST_GPU_ID)
        self.machines: dict[int, Machine] = {}
        self.chunks: dict[int, Chunk] = {}
        for blueprint, held in blueprints:
            machine = build(blueprint, offer_ids, gpu_ids)
            machine.strangers = (1 << held) - 1
            self.defects.spoil(machine)
            self.machines[machine.id] = machine
            self.chunks.update((chunk.offer_id, chunk) for chunk in machine.chunks)
        self.next_offer_id = next(offer_ids)

    def _instance(self, account: str, chunk: Chunk, launch: Launch, defects: InstanceDefects) -> Instance:
        number = self.next_contract_id
        self.next_contract_id += 1
        api_key = hashlib.sha256(f"{self._seed}:{number}".encode()).hexdigest()
        defects = self.defects.for_instance(number, chunk.machine, launch, defects)
        made = contract(number, account, chunk, launch, defects, api_key=api_key, now=self.now)
        self._addresses.give(made, chunk.machine.direct_ports)
        return made

    def boot(self, instance: Instance, *, never_ready: bool = False) -> None:
        """Let an instance take its GPUs and load; with `never_ready` it never runs."""
        self.accrue(instance)
        instance.restarts += 1
        rng = random.Random(f"{self._seed}:boot:{instance.id}:{instance.restarts}")
        seconds = math.inf if never_ready else rng.uniform(*self._boot_time)
        instance.boots(self.now, seconds, ends=instance.failure is None)
        self.machines[instance.machine_id].rented |= instance.mask
        if instance.boot_at is not None:
            self.at(instance.boot_at, partial(self._runs, instance, instance.boot_at))

    def _runs(self, instance: Instance, planned: float) -> None:
        if instance.phase is not Phase.LOADING or instance.boot_at != planned:
            return  # the instance was stopped, destroyed or started again meanwhile
        self._enter(instance, Phase.RUNNING)
        instance.status_msg = f"success, running {instance.launch.image}/{run_kind(instance.launch)}"
        run_onstart(instance)
        self.troubles.schedule(instance, planned)

    def _enter(self, instance: Instance, phase: Phase) -> None:
        self.accrue(instance)
        instance.phase = phase
        self.update_ports(instance)
        self.workloads.follow(instance)

    def _leave(self, instance: Instance, phase: Phase, *, then_held: int = 0) -> None:
        held = instance.phase in HOLDS_GPU
        self._enter(instance, phase)
        if instance.pretends:
            instance.pretends, instance.muted_until = False, 0.0
        if held:
            machine = self.machines[instance.machine_id]
            machine.rented &= ~instance.mask
            machine.strangers |= then_held
            self._relist(machine, instance.mask)
            self._starts.start_queued(machine)

    def _relist(self, machine: Machine, mask: int) -> None:
        for chunk in machine.chunks:
            if chunk.mask == mask:
                self.relisted(chunk, self.next_offer_id)
                self.next_offer_id += 1
        self.changes.machines.add(machine.id)

    def on(self, machine: Machine) -> list[Instance]:
        """The instances of a machine, oldest first."""
        return [instance for instance in self.instances.values() if instance.machine_id == machine.id]

    def accrue(self, instance: Instance) -> None:
        """Bring the bill of an instance up to date, before a change, and note that it changes."""
        instance.accrue(self.now, online=self.online(instance))
        self.changes.instances.add(instance.id)

    def update_ports(self, instance: Instance) -> None:
        """Let the right addresses of an instance answer."""
        works = not instance.mask & self.machines[instance.machine_id].dead
        self._addresses.update(instance, self.now, running=self.is_heard(instance), gpu_works=works)

    def _stop_without_credit(self) -> None:
        for account in {instance.account for instance in self.instances.values()}:
            if self.credit(account) <= 0:
                for instance in self.of(account):
                    if instance.phase in HOLDS_GPU or instance.phase is Phase.QUEUED:
                        self.stop(instance)

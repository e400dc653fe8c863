"""The market: machines, instances, accounts, and what happens to them as time passes.

Pure and synchronous; time is what `advance` was told last, and always the same follows for a seed. Everything that
changed since the last look is in `changes`, so that keeping the market costs what changed and no more.
"""

import hashlib
import heapq
import math
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count

from gpuproxy.sandbox.market.changes import Changes
from gpuproxy.sandbox.market.contracts import contract
from gpuproxy.sandbox.market.defects import Defects
from gpuproxy.sandbox.market.doors import Doors
from gpuproxy.sandbox.market.instances import HOLDS_GPU, Ended, Instance, Launch, Phase, Twist, container_ports
from gpuproxy.sandbox.market.machines import Blueprint, Chunk, Machine, build
from gpuproxy.sandbox.market.refusals import NoCredit, NoSuchAsk, NotRentable
from gpuproxy.sandbox.market.volumes import Volume, Volumes

FIRST_OFFER_ID = 39_000_000
FIRST_CONTRACT_ID = 27_000_000
_FIRST_GPU_ID = 100_000
_OUT_OF_FUNDS_EVERY = 60.0
_DAY = 86400.0


class Market:
    """One market for all accounts."""

    def __init__(
        self,
        blueprints: Iterable[tuple[Blueprint, int]],
        accounts: Sequence[str],
        *,
        now: float,
        seed: int = 7,
        boot_time: tuple[float, float] = (20.0, 60.0),
        credit: int = 100_000_000_000,
        shyness: tuple[float, float] = (0.0, 40.0),
        doors: Doors | None = None,
    ) -> None:
        """`blueprints` come with how many of a machine's first GPUs strangers hold; `credit` is micro-dollars.

        `shyness` is the share of fresh instances whose first rows are wrong, and for how many seconds at most.
        """
        self.now = now
        self.accounts = tuple(accounts)
        self.doors = doors or Doors()
        self.instances: dict[int, Instance] = {}
        self.ended: list[Ended] = []
        self.changes = Changes()
        self._seed = seed
        self._boot_time = boot_time
        self._credit = credit
        self._spent: dict[str, int] = dict.fromkeys(accounts, 0)  # by ended instances
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = count()
        self._funds_checked = self._ends_checked = -math.inf
        self.next_contract_id = FIRST_CONTRACT_ID
        self._build(blueprints)
        self.volumes = Volumes(self)
        self.defects = Defects(self.changes, seed, *shyness)

    # -- time

    def advance(self, now: float) -> None:
        """Let time pass: everything due happens at its own moment, in order. Time never goes back."""
        while self._timers and self._timers[0][0] <= now:
            when, _, happen = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            happen()
        self.now = max(self.now, now)
        if self.now - self._funds_checked >= _OUT_OF_FUNDS_EVERY:
            self._funds_checked = self.now
            self._stop_who_has_no_credit()
        if self.now - self._ends_checked >= _DAY:
            self._ends_checked = self.now
            self._offer_longer()

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Run `happen` when the market's time has come."""
        heapq.heappush(self._timers, (when, next(self._timer_numbers), happen))

    # -- what accounts do

    def rent(self, account: str, offer_id: int, launch: Launch, twist: Twist | None = None) -> Instance:
        """A new instance on the offer's GPUs. Raises NoSuchAsk, NotRentable, NoCredit; then nothing happened."""
        chunk = self.chunks.get(offer_id)
        if chunk is None:
            raise NoSuchAsk
        if not chunk.rentable:
            raise NotRentable
        if self.credit(account) <= 0:
            raise NoCredit
        instance = self._instance(account, chunk, launch, twist or Twist())
        self.instances[instance.id] = instance
        if launch.stopped or (instance.failure is not None and instance.failure.stopped):
            instance.phase = Phase.STOPPED
            self._relist(chunk.machine, chunk.mask)
        else:
            self._boot(instance, never_ready=twist is not None and twist.never_ready)
        return instance

    def stop(self, instance: Instance) -> None:
        """It keeps its disk and gives its GPUs back; a queued start is cancelled."""
        self._leave(instance, Phase.STOPPED)
        instance.interrupted = False

    def start(self, instance: Instance, *, refuse_for: float = 0.0) -> bool:
        """True when it boots or runs; False when its GPUs are held by others and the start was queued."""
        if instance.phase in (Phase.LOADING, Phase.RUNNING):
            return True
        machine = self.machines[instance.machine_id]
        if instance.phase is Phase.EXITED or (refuse_for <= 0 and self._can_start(machine, instance)):
            self._boot(instance)
            return True
        self._settle(instance)
        instance.phase = Phase.QUEUED
        instance.not_before = self.now + refuse_for
        if refuse_for > 0:
            self.at(instance.not_before, partial(self._start_queued, machine))
        return False

    def restart(self, instance: Instance, transient: str) -> bool:
        """A new container on the GPUs that it holds, "rebooting" or "recycling" at first; False: it holds none."""
        if instance.phase not in HOLDS_GPU:
            return False
        self._enter(instance, Phase.EXITED)
        self._boot(instance)
        instance.transient = transient
        return True

    def bid(self, instance: Instance, price: int | None) -> None:
        """A new bid, micro-dollars per hour (None: one that wins). Less than the least is outbid; enough goes on."""
        least = self.chunk_of(instance).min_bid
        price = least if price is None else price
        self._settle(instance)
        instance.reprice(price)
        if price < least and instance.phase in HOLDS_GPU:
            self._leave(instance, Phase.STOPPED)
            instance.interrupted = True
        elif price >= least and instance.interrupted:
            self.start(instance)

    def label(self, instance: Instance, label: str | None) -> None:
        """Any text; labels need not be unique."""
        instance.label = label
        self.changes.instances.add(instance.id)

    def destroy(self, instance: Instance) -> None:
        """Gone for good, its GPUs are offered again under new ids."""
        self._leave(instance, Phase.DESTROYED)
        for number in instance.ports.values():
            self.doors.release(number)
        billed = self.billed(instance)
        del self.instances[instance.id]
        self.volumes.released(instance)
        self._spent[instance.account] = self._spent.get(instance.account, 0) + billed
        ended = Ended(
            id=instance.id,
            account=instance.account,
            label=instance.label,
            gpu_model=instance.gpu_model,
            num_gpus=instance.gpus,
            machine_id=instance.machine_id,
            price=instance.price,
            created_at=instance.created_at,
            destroyed_at=self.now,
            billed=billed,
            volume_ids=tuple(instance.launch.volumes),
            gpu_times=tuple(instance.gpu_times(self.now, online=False)),
        )
        self.ended.append(ended)
        self.changes.ended.append(ended)
        self.changes.instances.discard(instance.id)

    def credit(self, account: str) -> int:
        """Micro-dollars that the account has left."""
        spent = self._spent.get(account, 0) + sum(self.billed(one) for one in self.of(account))
        return self._credit - spent - self.volumes.bill(account)

    def of(self, account: str) -> list[Instance]:
        """The account's instances, oldest first."""
        return [instance for instance in self.instances.values() if instance.account == account]

    def billed(self, instance: Instance) -> int:
        """Micro-dollars up to now."""
        return instance.billed(self.now, online=self.online(instance))

    def online(self, instance: Instance) -> bool:
        """True while its host is connected."""
        return self.machines[instance.machine_id].online

    def bill(self) -> int:
        """Micro-dollars of all accounts, ended instances and deleted volumes included."""
        ended = sum(ended.billed for ended in self.ended)
        return ended + sum(map(self.billed, self.instances.values())) + self.volumes.bill()

    def chunk_of(self, instance: Instance) -> Chunk:
        """The chunk that it was rented as."""
        return next(one for one in self.machines[instance.machine_id].chunks if one.mask == instance.mask)

    # -- what happens to machines

    def occupy(self, machine: Machine, gpus: int, *, leave_after: float | None = None) -> int:
        """Strangers rent up to so many GPUs; how many they got."""
        taken = machine.take(gpus)
        self.hold(machine, taken, leave_after=leave_after)
        return taken.bit_count()

    def hold(self, machine: Machine, mask: int, *, leave_after: float | None = None) -> None:
        """Strangers hold these GPUs from now on."""
        machine.strangers |= mask
        self.changes.machines.add(machine.id)
        if leave_after is not None:
            self.at(self.now + leave_after, partial(self.vacate, machine, mask))

    def vacate(self, machine: Machine, mask: int = -1) -> None:
        """Strangers leave these GPUs (all, by default)."""
        machine.strangers &= ~mask
        self.changes.machines.add(machine.id)
        self._start_queued(machine)

    def set_online(self, machine: Machine, *, online: bool) -> None:
        """A host is lost, or comes back."""
        for instance in self._on(machine):
            self._settle(instance)
        self.volumes.settle_on(machine.id)
        machine.online = online
        self.changes.machines.add(machine.id)
        for instance in self._on(machine):
            self._turn_doors(instance)
        if online:
            self._start_queued(machine)

    def container_dies(self, instance: Instance, why: str) -> None:
        """It exits by itself; the contract goes on holding the GPUs."""
        if instance.phase in HOLDS_GPU:
            self._enter(instance, Phase.EXITED)
            instance.status_msg = why

    def gpu_dies(self, instance: Instance) -> None:
        """The container goes on; only the machine's record tells."""
        instance.status_msg = "GPU error: NVRM: Xid 79, GPU has fallen off the bus."
        columns = self.machines[instance.machine_id].columns
        columns.update(verification="deverified", vericode=2)
        self.changes.instances.add(instance.id)
        self.changes.machines.add(instance.machine_id)

    def outbid(self, instance: Instance) -> None:
        """Somebody pays more: it is stopped, and its GPUs are the other's."""
        machine = self.machines[instance.machine_id]
        had = instance.mask if instance.phase in HOLDS_GPU else 0
        self._leave(instance, Phase.STOPPED, then_held=had)
        instance.interrupted = True
        self.hold(machine, had)

    def reprice(self, chunk: Chunk, price: int) -> None:
        """Micro-dollars per hour for all its GPUs; running instances keep theirs."""
        chunk.price = price
        self.changes.machines.add(chunk.machine.id)

    # -- for whoever keeps the market

    def restore(self, instances: Iterable[Instance], ended: Iterable[Ended], volumes: Iterable[Volume] = ()) -> None:
        """Take up again what was kept; doors get new numbers where the old ones are taken."""
        self.volumes.restore(volumes)
        for gone in ended:
            self.ended.append(gone)
            self._spent[gone.account] = self._spent.get(gone.account, 0) + gone.billed
        for instance in instances:
            machine = self.machines[instance.machine_id]
            self.instances[instance.id] = instance
            instance.ports = {name: self.doors.reserve(number) for name, number in instance.ports.items()}
            if instance.phase in HOLDS_GPU:
                machine.rented |= instance.mask
            if instance.phase is Phase.LOADING and instance.boot_at is not None:
                self.at(instance.boot_at, partial(self._runs, instance, instance.boot_at))
            elif instance.phase is Phase.QUEUED:
                self.at(max(self.now, instance.not_before), partial(self._start_queued, machine))
            elif instance.phase is Phase.RUNNING and instance.dies_after is not None:
                self._schedule_death(instance, instance.boot_at or self.now)
            self._turn_doors(instance)

    def relisted(self, chunk: Chunk, offer_id: int) -> None:
        """The chunk is offered under this id from now on."""
        self.chunks.pop(chunk.offer_id, None)
        chunk.offer_id = offer_id
        self.chunks[offer_id] = chunk

    # -- within

    def _build(self, blueprints: Iterable[tuple[Blueprint, int]]) -> None:
        offer_ids, gpu_ids = count(FIRST_OFFER_ID), count(_FIRST_GPU_ID)
        self.machines: dict[int, Machine] = {}
        self.chunks: dict[int, Chunk] = {}
        for blueprint, held in blueprints:
            machine = build(blueprint, offer_ids, gpu_ids)
            machine.strangers = (1 << held) - 1
            self.machines[machine.id] = machine
            self.chunks.update((chunk.offer_id, chunk) for chunk in machine.chunks)
        self.next_offer_id = next(offer_ids)

    def _instance(self, account: str, chunk: Chunk, launch: Launch, twist: Twist) -> Instance:
        number = self.next_contract_id
        self.next_contract_id += 1
        api_key = hashlib.sha256(f"{self._seed}:{number}".encode()).hexdigest()
        ports = {name: self.doors.reserve() for name in container_ports(launch)}
        twist = self.defects.twist_for(number, chunk.machine, launch, twist)
        return contract(number, account, chunk, launch, twist, api_key=api_key, ports=ports, now=self.now)

    def _boot(self, instance: Instance, *, never_ready: bool = False) -> None:
        self._settle(instance)
        instance.restarts += 1
        rng = random.Random(f"{self._seed}:boot:{instance.id}:{instance.restarts}")
        seconds = math.inf if never_ready else rng.uniform(*self._boot_time)
        instance.boots(self.now, seconds, ends=instance.failure is None)
        self.machines[instance.machine_id].rented |= instance.mask
        if instance.boot_at is not None:
            self.at(instance.boot_at, partial(self._runs, instance, instance.boot_at))

    def _runs(self, instance: Instance, planned: float) -> None:
        if instance.phase is not Phase.LOADING or instance.boot_at != planned:
            return  # it was stopped or destroyed, or is in another boot by now
        self._enter(instance, Phase.RUNNING)
        instance.status_msg = f"success, running {instance.launch.image}/ssh"
        self._schedule_death(instance, planned)

    def _schedule_death(self, instance: Instance, ran_since: float) -> None:
        if instance.dies_after is not None:
            self.at(ran_since + instance.dies_after, partial(self._dies, instance, instance.restarts))

    def _dies(self, instance: Instance, restarts: int) -> None:
        if instance.phase is Phase.RUNNING and instance.restarts == restarts:
            self.container_dies(instance, "container exited with code 137")

    def _enter(self, instance: Instance, phase: Phase) -> None:
        self._settle(instance)
        instance.phase = phase
        self._turn_doors(instance)

    def _leave(self, instance: Instance, phase: Phase, *, then_held: int = 0) -> None:
        held = instance.phase in HOLDS_GPU
        self._enter(instance, phase)
        if held:
            machine = self.machines[instance.machine_id]
            machine.rented &= ~instance.mask
            machine.strangers |= then_held
            self._relist(machine, instance.mask)
            self._start_queued(machine)

    def _relist(self, machine: Machine, mask: int) -> None:
        for chunk in machine.chunks:
            if chunk.mask == mask:
                self.relisted(chunk, self.next_offer_id)
                self.next_offer_id += 1
        self.changes.machines.add(machine.id)

    def _start_queued(self, machine: Machine) -> None:
        for instance in self._on(machine):
            if instance.phase is Phase.QUEUED and self._can_start(machine, instance):
                self._boot(instance)

    def _can_start(self, machine: Machine, instance: Instance) -> bool:
        return machine.online and not instance.mask & machine.held and self.now >= instance.not_before

    def _on(self, machine: Machine) -> list[Instance]:
        return [instance for instance in self.instances.values() if instance.machine_id == machine.id]

    def _settle(self, instance: Instance) -> None:
        instance.settle(self.now, online=self.online(instance))
        self.changes.instances.add(instance.id)

    def _turn_doors(self, instance: Instance) -> None:
        answers = instance.phase is Phase.RUNNING and self.online(instance) and not instance.no_ssh
        for name, number in instance.ports.items():
            if not name.endswith("/udp"):
                self.doors.turn(number, "ssh" if name == "22/tcp" else "tcp", answers=answers)

    def _offer_longer(self) -> None:
        """Hosts go on: who would offer for less than a week does so for half a year more."""
        for machine in self.machines.values():
            if machine.offer_longer(self.now):
                self.changes.machines.add(machine.id)

    def _stop_who_has_no_credit(self) -> None:
        for account in {instance.account for instance in self.instances.values()}:
            if self.credit(account) <= 0:
                for instance in self.of(account):
                    if instance.phase in HOLDS_GPU or instance.phase is Phase.QUEUED:
                        self.stop(instance)

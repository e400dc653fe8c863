"""`make soak`: two days of the market's time with random callers and faults. Nothing may leak, and memory may not grow.

The server is real. The market has the limits and faults of the real one: rate limits, 64 offers in a search, wrong
first rows. Both clocks run SCALE times as fast. Every few minutes of the market there is a fault: one of the fault
matrix, a machine that dies, a foreign machine, or a changed price. At the end everything is released.

Environment: HOURS (default 48), SCALE (240), SEED (1), and LOG, a file for the server's log. Exit code 0: the market
has no machines, no label was used twice, the server's memory grew by at most 10 % after the sixth hour, and the log has
no warnings. Only `provider_silent` is allowed, because faults of listings cause it, if `provider_answered` of the same
account follows.
"""

import os
import random
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError

from scripts.callers import Ledger, RandomCaller, release_everything
from scripts.evidence import account, twins, unexpected, until
from scripts.variables import refuse_arguments
from tests.system.matrix import cells
from tests.system.processes import Market, Server

HOURS = float(os.environ.get("HOURS", "48"))
SCALE = float(os.environ.get("SCALE", "240"))
SEED = int(os.environ.get("SEED", "1"))
_HOUR = 3600.0
_WARM = 6.0  # hours until the memory counts
_GROWTH = 0.10
_CALLERS = 3
_MOST = 30
_BETWEEN_ACTS = 60.0  # seconds of the market, on average, for each caller
_BETWEEN_TROUBLES = 300.0
_ENDED_WITHIN = 3600.0
_TIMEOUT = 1.0  # real seconds
_MACHINES = 60
_CELLS = tuple(cell for cell in cells() if not cell.slow and (cell.call, cell.row) != ("search", "rate_limited:quota"))
"""All faults but two kinds. A hang takes a timeout, which counts in real seconds, each of them minutes here: the
billing check would rightly report what is billed meanwhile. A used-up quota of searches stops renting until midnight.
"""
_WAYS_TO_DIE = ("container", "gpu", "outbid")
"""Not "host": an offline machine is not billed, and our meters run on, which the billing check reports rightly."""


@dataclass
class Samples:
    """The resident memory of the server, by hours of the market."""

    taken: list[tuple[float, int]] = field(default_factory=list)

    def due(self, hour: float) -> bool:
        """True when the next sample is due."""
        return not self.taken or hour - self.taken[-1][0] >= HOURS / 16

    def take(self, hour: float, server: Server) -> None:
        """Take a sample."""
        self.taken.append((hour, server.memory_kb()))

    def growth(self) -> float:
        """The relative growth from the first sample after the warm-up to the last sample."""
        counted = [kb for hour, kb in self.taken if hour >= min(_WARM, HOURS / 2)]
        return counted[-1] / counted[0] - 1 if counted else 0.0

    def __str__(self) -> str:
        first = next((kb for hour, kb in self.taken if hour >= min(_WARM, HOURS / 2)), self.taken[-1][1])
        return f"{first / 1024:.1f} MB after the warm-up, {self.taken[-1][1] / 1024:.1f} MB now, {self.growth():+.1%}"


class Troubles:
    """Random faults of the market."""

    def __init__(self, market: Market, dice: random.Random) -> None:
        self._market = market
        self._dice = dice
        self.count = 0

    def one_more(self) -> None:
        """Cause one random fault."""
        self.count += 1
        self._dice.choices((self._fault, self._death, self._stranger, self._price), (6, 2, 1, 1))[0]()

    def over(self) -> None:
        """Remove all faults."""
        self._market.control("DELETE", "faults")

    def _fault(self) -> None:
        order = self._dice.choice(_CELLS).order(times=self._dice.choice((1, 1, 2, 4)))
        self._market.control("POST", "faults", {"provider": "vast.ai", **order})

    def _death(self) -> None:
        if alive := self._market.alive():
            how = {"how": self._dice.choice(_WAYS_TO_DIE)}
            with suppress(HTTPError):  # it has just been destroyed
                self._market.control("POST", f"instances/{self._dice.choice(sorted(alive))}/kill", how)

    def _stranger(self) -> None:
        if alive := self._market.alive():
            machine = alive[self._dice.choice(sorted(alive))]["machine_id"]
            what, body = self._dice.choice((("occupy", {"gpus": 1}), ("vacate", {})))
            self._market.control("POST", f"machines/{machine}/{what}", body)

    def _price(self) -> None:
        """Make the next machine cost more than its offer."""
        self._market.arm("create", "price_moved", factor=self._dice.choice((1.1, 2.0, 20.0)))


@dataclass
class Soak:
    """One run."""

    market: Market
    server: Server
    dice: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    samples: Samples = field(default_factory=Samples)

    def run(self) -> list[str]:
        """Run everything and print the figures. Returns the errors."""
        troubles = Troubles(self.market, self.dice)
        self._days(troubles)
        troubles.over()
        with self.server.client() as client:
            released = release_everything(client)
            ended = until(self.market, lambda: not self.market.alive() and not client.instances(), _ENDED_WITHIN)
            left = [f"{one.status} {one.contract_id or one.lease_id}" for one in client.instances()]
        state, complaints = self.market.state(), unexpected(self.server.log())
        after = "never" if ended is None else f"after {ended:.0f} s of the market"
        print(f"soak       {HOURS:g} h of the market at {SCALE:g} times, seed {SEED}, {troubles.count} troubles")
        print(f"callers    {', '.join(f'{name} {count}' for name, count in sorted(self.ledger.counts.items()))}")
        print(f"market     {account(state)}; {len(twins(state))} labels twice")
        print(f"end        {released} reservations released, nothing left {after}")
        print(f"memory     {self.samples}")
        print(f"log        {complaints or 'no unexpected warning'}")
        checks = (
            (ended is None, f"not everything has ended: market {sorted(self.market.alive())}, database {left}"),
            (bool(twins(state)), f"labels of more than one machine: {twins(state)}"),
            (self.samples.growth() > _GROWTH, f"memory grew by {self.samples.growth():.1%}"),
            (bool(complaints), f"unexpected warnings in the log: {complaints}"),
        )
        return [text for failed, text in checks if failed] + self.ledger.unexpected

    def _days(self, troubles: Troubles) -> None:
        ended = threading.Event()
        seeds = [self.dice.getrandbits(32) for _ in range(_CALLERS)]
        threads = [threading.Thread(target=self._caller, args=(seed, ended)) for seed in seeds]
        for thread in threads:
            thread.start()
        try:
            self._disturb(troubles)
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def _disturb(self, troubles: Troubles) -> None:
        began = self.market.state()["now"]
        while (hour := (self.market.state()["now"] - began) / _HOUR) < HOURS:
            if self.samples.due(hour):
                self.samples.take(hour, self.server)
                print(f"{hour:5.1f} h  {len(self.market.alive())} alive, {self.samples}", flush=True)
            troubles.one_more()
            time.sleep(self.dice.expovariate(SCALE / _BETWEEN_TROUBLES))
        self.samples.take(hour, self.server)

    def _caller(self, seed: int, ended: threading.Event) -> None:
        dice = random.Random(seed)
        with self.server.client() as client:
            caller = RandomCaller(client, self.ledger, seed, most=_MOST)
            while not ended.wait(dice.expovariate(SCALE / _BETWEEN_ACTS)):
                caller.act()


def main() -> int:
    """Run and compare. Returns the exit code."""
    settings = {f"GPUPROXY_{call}_TIMEOUT": str(_TIMEOUT) for call in ("SEARCH", "CREATE", "CALL")}
    options = ("--time-scale", str(SCALE), "--machines", str(_MACHINES))
    with (
        tempfile.TemporaryDirectory() as name,
        Market(Path(name), *options) as market,
        Server(Path(name), market, GPUPROXY_TIME_SCALE=str(SCALE), **settings) as server,
    ):
        wrong = Soak(market, server, random.Random(SEED)).run()
        if (log := os.environ.get("LOG")) is not None:
            Path(log).write_text(server.log())
    for line in wrong:
        print(f"WRONG      {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    refuse_arguments(__doc__)
    sys.exit(main())

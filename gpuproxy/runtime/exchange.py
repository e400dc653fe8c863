"""What processes tell each other of the circuits of accounts, a few times a minute.

A circuit is a process's own view. A change is told to the others, so that a marketplace that does not answer is probed
by one process and not by each. A circuit that was told rests longer in the others, so that whoever saw the failure
probes first.
"""

import json
from datetime import timedelta
from functools import partial

from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Tx
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.store import shared
from gpuproxy.store.rows import micros, moment

_PREFIX = "circuit:"
_APART = 6.0
"""Seconds by which each further process lets a circuit rest longer. An outcome is told sooner."""


class Exchange:
    """Tells and learns the states of the circuits of creates."""

    def __init__(self, accounts: Accounts, owner: str) -> None:
        """`owner` names this process."""
        self._accounts = accounts
        self._owner = owner
        self._told: dict[AccountKey, int] = {}
        self._seen: dict[str, int] = {}

    def step(self, tx: Tx, place: int) -> None:
        """Tell what has changed here, and learn what has changed elsewhere. `place`: of this process among the live."""
        rows = {row.name: row for row in shared.with_prefix(tx, _PREFIX)}
        for key in sorted(self._accounts.keys()):
            circuit, name = self._accounts.circuit(key), f"{_PREFIX}{key[0]}:{key[1]}"
            row = rows.get(name)
            if circuit.changes != self._told.get(key, 0):
                until = tx.now() + timedelta(seconds=circuit.rest)
                head = {"owner": self._owner, "failures": circuit.failures, "until": micros(until)}
                shared.tell(tx, name, json.dumps(head))
                tx.after_commit(partial(self._note, key, circuit.changes, name, 1 + (row.version if row else 0)))
            elif row is not None and row.version != self._seen.get(name):
                head = json.loads(row.head)
                rest = (moment(head["until"]) - tx.now()).total_seconds()
                tx.after_commit(partial(self._learn, key, name, row.version, head["failures"], rest + place * _APART))

    def _note(self, key: AccountKey, changes: int, name: str, version: int) -> None:
        self._told[key], self._seen[name] = changes, version

    def _learn(self, key: AccountKey, name: str, version: int, failures: int, rest: float) -> None:
        circuit = self._accounts.circuit(key)
        if circuit.changes == self._told.get(key, 0):  # else this process has seen something newer itself
            circuit.learn(failures, rest)
            self._seen[name] = version

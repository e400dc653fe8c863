"""What was seen of a machine: why it counts as ready, what its boot script reported, and what its owner should know."""

from collections.abc import Iterable, Mapping

from gpuproxy.cli.simulated import is_simulated
from gpuproxy.v1 import gpuproxy_pb2 as pb

_FINE: Mapping[str, frozenset[str]] = {
    "keys": frozenset({"requested", "added", "present"}),
    "onstart": frozenset({"requested", "started", "none"}),
    "marketplace_keys": frozenset({"pending", "registered"}),
    "ending": frozenset({"requested", "watching", "stopped"}),
}
"""What a part may report without needing attention."""
_FINE_ELSEWHERE = frozenset[str]().union(*_FINE.values())
"""For parts of newer servers."""
_SKIPPED = "skipped"


def evidence(machine: pb.GPUInstance) -> str:
    """Why the machine counts as ready, to be appended to a word: ` (ssh greets)`; "" if that is not known."""
    return f" ({machine.ready_evidence})" if machine.ready_evidence else ""


def boot(machine: pb.GPUInstance) -> str:
    """What the boot script reported, by part: `keys: added, onstart: started`."""
    return ", ".join(f"{part}: {_report(machine, report)}" for part, report in sorted(machine.boot_parts.items()))


def warnings(machines: Iterable[pb.GPUInstance]) -> list[str]:
    """One line for each warning: `warning: 7001: its contract ends before its lease`."""
    return [f"warning: {_name(one)}: {text}" for one in machines for text in one.warnings]


def attention(machines: Iterable[pb.GPUInstance]) -> list[str]:
    """The warnings, and the parts of the boot script that did not run: `7001: keys: unsupported in entrypoint mode`."""
    lines = []
    for one in machines:
        lines += [f"{_name(one)}: {part}: {_report(one, report)}" for part, report in _troubles(one)]
        lines += warnings([one])
    return lines


def _troubles(machine: pb.GPUInstance) -> list[tuple[str, str]]:
    parts = machine.boot_parts.items()
    return sorted((part, report) for part, report in parts if report not in _FINE.get(part, _FINE_ELSEWHERE))


def _report(machine: pb.GPUInstance, report: str) -> str:
    """The report; the sandbox may skip a script, which no other machine does."""
    return f"{report} (the sandbox does not run it)" if report == _SKIPPED and is_simulated(machine) else report


def _name(machine: pb.GPUInstance) -> str:
    return machine.contract_id or machine.lease_id

"""Write the generated parts of docs: settings, the states of a lease, the calls, the rules, and more.

Usage: scripts/docs.py [--check]. Each part stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; `--check`
changes nothing and fails when a part is not as it would be written.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from gpuproxy.app import marketplaces
from gpuproxy.config.settings import Settings, settings_class
from gpuproxy.conformance import RULES
from gpuproxy.model.leases import TERMINAL, TRANSITIONS, LeaseState
from gpuproxy.model.pools import TRANSITIONS as POOL_TRANSITIONS
from gpuproxy.model.pools import Degraded, PoolEvent, PoolState
from gpuproxy.model.probes import QUANTITIES
from gpuproxy.model.reasons import Reason
from gpuproxy.ports.provider import CAPABILITY_NAMES
from gpuproxy.warmpool.hints import HINTS
from gpuproxy.warmpool.signals import MATRIX, Answer
from scripts.detection_words import DETECTION

ROOT = Path(__file__).resolve().parent.parent
_RPC = re.compile(r"((?:^ *//.*\n)+) *rpc (\w+)\(", re.MULTILINE)
_METHOD = re.compile(r"^    async def ([A-Z]\w+)\(|^    def ([A-Z]\w+)\(", re.MULTILINE)


def main() -> int:
    """0 when everything is as it should be (now)."""
    stale = [
        path.name for path, parts in PARTS.items() if not _up_to_date(path, parts, write="--check" not in sys.argv)
    ]
    for name in stale:
        print(f"{name} is out of date: run scripts/docs.py")
    return 1 if stale else 0


def settings_table() -> str:
    """Each variable, its default, what it says; those of the installed marketplaces first."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    fields = settings_class(marketplaces.installed()).model_fields
    for _, info in sorted(fields.items(), key=lambda field: field[0] in Settings.model_fields):
        lines.append(f"| `{info.alias}` | {_shown(info.default)} | {info.description} |")
    return "\n".join(lines)


def lease_diagram() -> str:
    """The transition table as a Mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {LeaseState.REQUESTED}"]
    for state, events in TRANSITIONS.items():
        arrows: dict[LeaseState, list[str]] = {}
        for event, target in events.items():
            arrows.setdefault(target, []).append(event.value)
        lines += [f"    {state} --> {target}: {', '.join(names)}" for target, names in arrows.items()]
    lines += [f"    {state} --> [*]" for state in LeaseState if state in TERMINAL]
    return "\n".join([*lines, "```"])


def pool_diagram() -> str:
    """The transition table of warm pools as a Mermaid state diagram. Cleanup leads from every state to disabled."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {PoolState.DISABLED}"]
    for state, events in POOL_TRANSITIONS.items():
        arrows: dict[PoolState, list[str]] = {}
        for event, target in events.items():
            if (state, event) != (PoolState.DISABLED, PoolEvent.CLEANUP):
                arrows.setdefault(target, []).append(event.value)
        lines += [f"    {state} --> {target}: {', '.join(names)}" for target, names in arrows.items()]
    return "\n".join([*lines, "```"])


def pool_reason_table() -> str:
    """Each reason for which a warm pool is degraded, and what its owner can do."""
    lines = ["| `degraded_reason` | what to do |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{reason}` | {HINTS[reason]} |" for reason in Degraded if reason)])


def detection_table(language: str) -> Callable[[], str]:
    """Renders what the marketplace and a probe mean together, in the words of a language."""

    def render() -> str:
        words = DETECTION[language]
        lines = [words.head, "|---|---|---|---|"]
        for api, row in MATRIX.items():
            cells = [words.signals[row[answer]] for answer in (Answer.ANSWERS, Answer.SILENT, Answer.NOT_PROBED)]
            lines.append(f"| {words.apis[api]} | {' | '.join(cells)} |")
        return "\n".join(lines)

    return render


def refusal_table() -> str:
    """Each reason with which calls are refused, its gRPC status and what to do."""
    lines = ["| reason | status | meaning and what to do |", "|---|---|---|"]
    means = ((reason, reason.meaning) for reason in Reason)
    return "\n".join([*lines, *(f"| `{name}` | {it.status} | {it.refusal} |" for name, it in means if it.refusal)])


def outcome_table() -> str:
    """Each reason with which a create or a machine ends."""
    lines = ["| reason | meaning |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{it}` | {it.meaning.outcome} |" for it in Reason if it.meaning.outcome)])


def stop_table() -> str:
    """Each reason for which renting stops early."""
    lines = ["| reason | meaning and what to do |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{it}` | {it.meaning.stop} |" for it in Reason if it.meaning.stop)])


def call_table() -> str:
    """Each RPC with the first sentence of its comment, and whether the server has it."""
    contract = (ROOT / "proto/gpuproxy/v1/gpuproxy.proto").read_text(encoding="utf-8")
    built = _built_calls()
    lines = ["| call | what it does | built |", "|---|---|---|"]
    for comment, name in _RPC.findall(contract):
        text = " ".join(line.strip().removeprefix("//").strip() for line in comment.strip().splitlines())
        sentence = text.split(". ")[0].rstrip(".").removeprefix(f"{name} ")
        lines.append(f"| {name} | {sentence} | {'yes' if name in built else 'not yet'} |")
    return "\n".join(lines)


def service_config() -> str:
    """Which calls gRPC repeats by itself, as the Python client has it."""
    return f"```json\n{(ROOT / 'gpuproxy/client/service_config.json').read_text(encoding='utf-8')}```"


def rule_table() -> str:
    """Each rule of the conformance suite, as its docstring says it."""
    rules = (f"| `{name}` | {' '.join((rule.__doc__ or '').split())} |" for name, rule in RULES.items())
    return "\n".join(["| rule | |", "|---|---|", *rules])


def measurement_table() -> str:
    """Each quantity that a probe measures."""
    rows = (
        f"| `{name}` | {it.what} | {', '.join(f'`{need}`' for need in it.needs)} |" for name, it in QUANTITIES.items()
    )
    return "\n".join(["| name | meaning | needs |", "|---|---|---|", *rows])


def capability_table() -> str:
    """What a provider may lack."""
    rows = (f"| `{name}` | {meaning} |" for name, meaning in sorted(CAPABILITY_NAMES.items()))
    return "\n".join(["| capability | meaning |", "|---|---|", *rows])


PARTS: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "docs" / "settings.md": {"settings": settings_table},
    ROOT / "docs" / "reservations.md": {"leases": lease_diagram},
    ROOT / "docs" / "api.md": {
        "calls": call_table,
        "refusals": refusal_table,
        "outcomes": outcome_table,
        "stops": stop_table,
    },
    ROOT / "docs" / "warm-pool.md": {
        "pool-states": pool_diagram,
        "pool-reasons": pool_reason_table,
        "pool-detection": detection_table("en"),
    },
    ROOT / "docs" / "warm-pool.pt-BR.md": {"pool-states": pool_diagram, "pool-detection": detection_table("pt-BR")},
    ROOT / "docs" / "marketplace-accounts.md": {"measurements": measurement_table},
    ROOT / "docs" / "GRPC.md": {"service-config": service_config},
    ROOT / "docs" / "providers.md": {"capabilities": capability_table, "rules": rule_table},
}


def _built_calls() -> frozenset[str]:
    sources = (ROOT / "gpuproxy" / "edge" / "rpc").glob("*.py")
    found = (name for path in sources for pair in _METHOD.findall(path.read_text(encoding="utf-8")) for name in pair)
    return frozenset(name for name in found if name)


def _up_to_date(path: Path, parts: dict[str, Callable[[], str]], *, write: bool) -> bool:
    before = path.read_text(encoding="utf-8")
    after = before
    for name, render in parts.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        head, found, rest = after.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"{path.name} lacks {begin} ... {end}")
        after = f"{head}{begin}\n{render()}\n{end}{tail}"
    if write and after != before:
        path.write_text(after, encoding="utf-8")
    return write or after == before


def _shown(default: object) -> str:
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, float):
        return f"`{default:g}`"
    if isinstance(default, SecretStr):
        return "(hidden)"
    return f"`{default}`" if str(default) else "none"


if __name__ == "__main__":
    sys.exit(main())

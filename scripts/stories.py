"""Running the story of a seed: what the scripts that run many seeds have in common."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tests.simulation.audit import Violation

T = TypeVar("T")
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed whose story failed."""

    seed: int
    kind: str
    text: str
    times: int = 1
    """How often the violation occurred."""


def told(seed: int, run: Callable[[int], T], *, twice_every: int, differs: str = "broken") -> T | Failure:
    """The story of a seed; that of every `twice_every`th seed runs twice, and fails as `differs` if the ends differ."""
    try:
        result = run(seed)
        if seed % twice_every == 0 and run(seed) != result:
            return Failure(seed, differs, "two runs ended in different ways")
    except Violation as violation:
        return Failure(seed, violation.kind, str(violation), violation.times)
    except Exception as error:  # noqa: BLE001 - one broken story must not end all others
        return Failure(seed, "broken", f"{type(error).__name__}: {error}")
    return result


def announced(failure: Failure, target: str) -> None:
    """Print a failure at once, with the command that replays it."""
    print(f"seed {failure.seed}: {failure.text[:300]}\n    replay: make {target} SEED={failure.seed}", flush=True)


def judged(failures: Sequence[Failure], kinds: Mapping[str, str], target: str) -> int:
    """Print how many failures there are of each kind, with the words of `kinds`, and the first ones. The exit code."""
    counted = Counter(failure.kind for failure in failures)
    for kind, words in kinds.items():
        print(f"{counted.pop(kind, 0):<11} {words}")
    if counted:
        print(f"{counted.total():<11} others: {dict(counted)}")
    for failure in sorted(failures, key=lambda each: each.seed)[:_SHOWN]:
        print(f"FAILED seed {failure.seed}: {failure.text[:300]}\n    replay: make {target} SEED={failure.seed}")
    return 1 if failures else 0


def replayed(seed: int, *stories: Callable[[], object]) -> int:
    """Run the stories of one seed and print what each returns. The exit code: 1 if a promise was broken."""
    try:
        for story in stories:
            print(story())
    except Violation as violation:
        print(f"seed {seed}: {violation}")
        return 1
    return 0

"""The parts of the boot script: which there are, and the words that each may report."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.self_ending import PART as SELF_ENDING

ONSTART = "onstart"
"""The name under which the user's own script is reported."""
LOCK = "lock"
"""The name under which the lock of a volume is reported. It is no Part, because the user's script inherits it."""
_IN_ENTRYPOINT = "unsupported in entrypoint mode"
_FOLDER = files("gpuproxy.boot") / "sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing that our program does on the machine."""

    name: str
    """Lower-case letters. `source` defines the shell function part_NAME."""
    words: frozenset[str] = frozenset()
    """What a one-shot part may report, besides "failed"."""
    stays: bool = False
    """True: it runs until the container stops and reports nothing. False: it reports a word within seconds."""
    loops: bool = False
    """After its word, its function loop_NAME runs until the container stops."""
    source: str = ""
    """Its shell text; empty: the file `sh/NAME.sh`."""

    def text(self) -> str:
        """The shell text of the part."""
        return self.source or shell_file(self.name)


KEYS = Part(name="keys", words=frozenset({"added", "present"}))
ENDING = Part(name=SELF_ENDING, words=frozenset({"watching", "no_https_client", "no_key"}), loops=True)
PARTS: tuple[Part, ...] = (KEYS, ENDING)
"""All parts, in the order in which they run."""
WORDS: Mapping[str, frozenset[str]] = {
    **{part.name: part.words | {"failed"} for part in PARTS if not part.stays},
    LOCK: frozenset({"waiting", "held", "lock_held", "wrong_volume", "unsupported"}),
    ONSTART: frozenset({"started", "none", "failed", "skipped", "not_run"}),
}
"""The words that each part may report."""


def parts_of(spec: LaunchSpec) -> tuple[tuple[str, str], ...]:
    """The parts of a launch and their state before the machine has reported, sorted by part; empty: there are none."""
    wanted = {
        KEYS.name: bool(spec.ssh_public_keys),
        LOCK: spec.volume is not None and bool(spec.volume.nonce),
        ONSTART: bool(spec.onstart.strip()),
        ENDING.name: spec.self_ending,
    }
    word = _IN_ENTRYPOINT if spec.run_mode == "entrypoint" else "requested"
    return tuple(sorted((name, word) for name, is_wanted in wanted.items() if is_wanted))


@cache
def shell_file(name: str) -> str:
    """The text of `sh/NAME.sh`. Raises FileNotFoundError."""
    return (_FOLDER / f"{name}.sh").read_text(encoding="utf-8")

"""The defects of new instances: bad images, bad machines, wrong first rows. Armed faults have precedence.

The defects of an instance are decided when it is created, and it keeps them. Repairing a machine or an image affects
only instances that are created later.
"""

import random
from dataclasses import dataclass, replace

from gpuproxy.sandbox.market.addresses import UNREACHABLE, mapped_ports, run_kind
from gpuproxy.sandbox.market.changes import Changes
from gpuproxy.sandbox.market.instances import Failure, InstanceDefects, Launch, Misreport
from gpuproxy.sandbox.market.machines import Machine

WAYS_TO_BREAK = ("never_ready", "host_fault", *UNREACHABLE)
_IMAGE_MESSAGE = (
    "Error response from daemon: pull access denied for {0}, repository does not exist or may require 'docker login'"
)
_HOST_MESSAGE = "Error response from daemon: write /var/lib/docker/tmp/layer: no space left on device"
_MISREPORT_KINDS = ("exited", "exited", "stopped", "null", "name", "flip")
_MIN_SHARE_OF_LONGEST = 0.25
"""The shortest time of a misreport, as a share of the longest."""
_OTHER_NAMES = {
    "A100 PCIE": "A100 SXM4",
    "A100 SXM4": "A100 PCIE",
    "H100 NVL": "H100 SXM",
    "H100 PCIE": "H100 SXM",
    "H100 SXM": "H100 NVL",
    "RTX 4070S Ti": "RTX 4070 Ti",
    "RTX 4080S": "RTX 4080",
    "RTX PRO 6000 S": "RTX PRO 6000 WS",
    "RTX PRO 6000 WS": "RTX PRO 6000 S",
    "Tesla V100": "Tesla V100 SXM2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chances:
    """How frequent the defects are that occur by themselves. Shares are from 0 to 1, times in seconds."""

    misreport_share: float = 0.0
    """Of new instances whose rows are wrong at first."""
    misreport_seconds: float = 40.0
    """The maximum time for which they are."""
    one_address_share: float = 0.0
    """Of new instances with a proxy and a direct SSH address of which only one answers."""
    portless_share: float = 0.0
    """Of machines without direct ports."""
    keys_refreshed_after: float = 0.0
    """The time of running after which the keys vanish that onstart appended; 0: never."""


class Defects:
    """The defects of the whole market, and the choice of a new instance's defects."""

    def __init__(self, changes: Changes, seed: int, chances: Chances) -> None:
        self._changes = changes
        self._seed = seed
        self._chances = chances
        self.images: dict[str, str] = {}
        """Error messages by a text in the image's name; instances of such images fail. "": the usual message."""

    def for_instance(self, number: int, machine: Machine, launch: Launch, defects: InstanceDefects) -> InstanceDefects:
        """The defects of a new instance: those of an armed fault, then of its image, its machine and itself."""
        model = defects.gpu_name or str(machine.columns["gpu_name"])
        return replace(
            defects,
            failure=defects.failure or self._image_failure(launch.image) or _machine_failure(machine),
            unreachable=defects.unreachable or self._unreachable(number, machine, launch),
            keys_refreshed_after=self._refresh(defects),
            misreport=defects.misreport or self._misreport(number, model),
        )

    def spoil(self, machine: Machine) -> None:
        """Give a new machine the defects that it has from the start."""
        if random.Random(f"{self._seed}:ports:{machine.id}").random() < self._chances.portless_share:
            machine.columns["direct_port_count"] = 0

    def set_direct_ports(self, machine: Machine, count: int) -> None:
        """Set how many ports the host maps for each new instance."""
        machine.columns["direct_port_count"] = count
        self._changes.machines.add(machine.id)

    def break_image(self, text: str, message: str) -> None:
        """Let all new instances fail whose image name contains `text`."""
        self.images[text] = message
        self._changes.images = True

    def repair_images(self, text: str | None = None) -> int:
        """Repair the images of `text` (None: all images); returns the number of removed entries."""
        gone = [one for one in self.images if text in (None, one)]
        for one in gone:
            del self.images[one]
        self._changes.images = True
        return len(gone)

    def break_machine(self, machine: Machine, how: str, message: str = "") -> None:
        """Let all new instances on a machine fail in one of WAYS_TO_BREAK; "" repairs the machine."""
        machine.broken, machine.broken_message = how, message if how else ""
        self._changes.machines.add(machine.id)

    def _image_failure(self, image: str) -> Failure | None:
        for text, message in self.images.items():
            if text in image:
                return image_failure(image, message)
        return None

    def _unreachable(self, number: int, machine: Machine, launch: Launch) -> str:
        """The addresses that never answer. Of a single address no choice is made: it answers."""
        if machine.broken in UNREACHABLE:
            return machine.broken
        rng = random.Random(f"{self._seed}:address:{number}")
        has_two = run_kind(launch) != "args" and "22/tcp" in mapped_ports(launch, machine.direct_ports)
        if rng.random() >= self._chances.one_address_share or not has_two:
            return ""
        return rng.choice(("proxy_down", "direct_down"))

    def _refresh(self, defects: InstanceDefects) -> float | None:
        seconds = defects.keys_refreshed_after
        return self._chances.keys_refreshed_after or None if seconds is None else seconds

    def _misreport(self, number: int, model: str) -> Misreport | None:
        chances = self._chances
        rng = random.Random(f"{self._seed}:shy:{number}")
        if rng.random() >= chances.misreport_share:  # decided first: a larger share adds instances and changes none
            return None
        kind = rng.choice(_MISREPORT_KINDS)
        seconds = rng.uniform(_MIN_SHARE_OF_LONGEST, 1.0) * chances.misreport_seconds
        if kind in ("name", "flip"):
            return Misreport(seconds=seconds, gpu_name=other_name(model), flips=kind == "flip")
        return Misreport(seconds=seconds, status=kind)


def image_failure(image: str, message: str = "", status: str = "created", *, stopped: bool = False) -> Failure:
    """The failure of an image that can't be pulled on any host."""
    text = message or _IMAGE_MESSAGE.format(_repository(image))
    return Failure(kind="image_fault", status=status, message=text, stopped=stopped)


def host_failure(message: str = "", status: str = "created", *, stopped: bool = False) -> Failure:
    """The failure of a host that can't create the container; another host could."""
    return Failure(kind="host_fault", status=status, message=message or _HOST_MESSAGE, stopped=stopped)


def other_name(model: str) -> str:
    """Another name under which such a GPU is sometimes reported: that of a variant, or with a suffix."""
    return _OTHER_NAMES.get(model, f"{model} D")


def _machine_failure(machine: Machine) -> Failure | None:
    if machine.broken == "never_ready":
        return Failure(kind="never_ready", status="loading")
    return host_failure(machine.broken_message) if machine.broken == "host_fault" else None


def _repository(image: str) -> str:
    """The image without its tag."""
    path, slash, last = image.rpartition("/")
    return path + slash + last.partition(":")[0]

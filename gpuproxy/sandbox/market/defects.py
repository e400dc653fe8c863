"""What goes wrong with fresh instances: bad images, bad machines, shy rows. Faults that are armed come first.

The defects of an instance are decided when it is created, and stay with it for its life. Repairing a machine or an
image helps only the instances that are created afterwards.
"""

import random
from dataclasses import replace

from gpuproxy.sandbox.market.changes import Changes
from gpuproxy.sandbox.market.instances import Failure, Launch, Shyness, Twist
from gpuproxy.sandbox.market.machines import Machine

WAYS_TO_BREAK = ("never_ready", "host_fault", "no_ssh")
_IMAGE_MESSAGE = (
    "Error response from daemon: pull access denied for {0}, repository does not exist or may require 'docker login'"
)
_HOST_MESSAGE = "Error response from daemon: write /var/lib/docker/tmp/layer: no space left on device"
_SHY_KINDS = ("exited", "exited", "stopped", "null", "name", "flip")
_LEAST_SHY = 0.25
"""Of the longest time."""
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


class Defects:
    """The market-wide ones, and how a new instance gets its own."""

    def __init__(self, changes: Changes, seed: int, share: float, longest: float) -> None:
        """`share` of all new instances are shy, for `longest` seconds at most."""
        self._changes = changes
        self._seed = seed
        self._share = share
        self._longest = longest
        self.images: dict[str, str] = {}
        """What a create says whose image contains a text; an empty message: the usual one."""

    def twist_for(self, number: int, machine: Machine, launch: Launch, twist: Twist) -> Twist:
        """The twist of a new instance: what was armed for it, then its image's, its machine's and its own."""
        model = twist.gpu_name or str(machine.columns["gpu_name"])
        return replace(
            twist,
            failure=twist.failure or self._image_failure(launch.image) or _machine_failure(machine),
            no_ssh=twist.no_ssh or machine.broken == "no_ssh",
            shyness=twist.shyness or self._shyness(number, model),
        )

    def break_image(self, text: str, message: str) -> None:
        """From now on, instances of images that contain `text` never run, on any machine."""
        self.images[text] = message
        self._changes.images = True

    def repair_images(self, text: str | None = None) -> int:
        """Images that contain `text` work again (None: all images); how many entries that were."""
        gone = [one for one in self.images if text in (None, one)]
        for one in gone:
            del self.images[one]
        self._changes.images = True
        return len(gone)

    def break_machine(self, machine: Machine, how: str, message: str = "") -> None:
        """Instances that are created there fail so, one of WAYS_TO_BREAK; empty: they work again."""
        machine.broken, machine.broken_message = how, message if how else ""
        self._changes.machines.add(machine.id)

    def _image_failure(self, image: str) -> Failure | None:
        for text, message in self.images.items():
            if text in image:
                return image_failure(image, message)
        return None

    def _shyness(self, number: int, model: str) -> Shyness | None:
        rng = random.Random(f"{self._seed}:shy:{number}")
        if rng.random() >= self._share:  # decided first, so that a larger share adds shy ones and changes none
            return None
        kind, seconds = rng.choice(_SHY_KINDS), rng.uniform(_LEAST_SHY, 1.0) * self._longest
        if kind in ("name", "flip"):
            return Shyness(seconds=seconds, gpu_name=other_name(model), flips=kind == "flip")
        return Shyness(seconds=seconds, status=kind)


def image_failure(image: str, message: str = "", status: str = "created", *, stopped: bool = False) -> Failure:
    """The image can't be pulled, whatever the host."""
    text = message or _IMAGE_MESSAGE.format(_repository(image))
    return Failure(kind="image_fault", status=status, message=text, stopped=stopped)


def host_failure(message: str = "", status: str = "created", *, stopped: bool = False) -> Failure:
    """The host can't make the container; another one could."""
    return Failure(kind="host_fault", status=status, message=message or _HOST_MESSAGE, stopped=stopped)


def other_name(model: str) -> str:
    """A name that such a GPU is sometimes reported under: a variant's, or with a suffix."""
    return _OTHER_NAMES.get(model, f"{model} D")


def _machine_failure(machine: Machine) -> Failure | None:
    if machine.broken == "never_ready":
        return Failure(kind="never_ready", status="loading")
    return host_failure(machine.broken_message) if machine.broken == "host_fault" else None


def _repository(image: str) -> str:
    """The image without its tag."""
    path, slash, last = image.rpartition("/")
    return path + slash + last.partition(":")[0]

"""The network addresses of instances: which an instance has, which of them answer, and whom its SSH server lets in.

An instance is reached through the marketplace's proxy (`ssh_host`, `ssh_port`) and, on a host with direct ports,
through ports of the host that are mapped to ports of the container. What there is depends on the run type:

- ssh: the proxy's port is SSH. With a direct run type, 22/tcp is mapped too.
- jupyter: the proxy's port is Jupyter, and the next port is SSH. 8080/tcp is mapped.
- args, the image's own entry point: there is no SSH, although rows show a proxy port. Requested ports are mapped.

There is no clock here; `now` is an argument.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from gpuproxy.sandbox.market.instances import Instance, Launch
from gpuproxy.sandbox.market.port_table import AnswerKind, PortTable

RunKind = Literal["ssh", "jupyter", "args"]
UNREACHABLE = ("proxy_down", "direct_down", "ssh_down", "no_ssh")
"""Which addresses of an instance never answer: those of the proxy, all others, those of SSH, or all."""
_SSH = "22/tcp"
_JUPYTER = "8080/tcp"
_PUBLIC_KEY = re.compile(
    r"\b(?:(?:sk-)?ssh-(?:ed25519|rsa|dss)(?:@openssh\.com)?|(?:sk-)?ecdsa-sha2-nistp\d+(?:@openssh\.com)?)"
    r" +AAAA[A-Za-z0-9+/]*={0,2}(?: +[\w.@+-]+)?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """One address of an instance on loopback."""

    port: int
    kind: AnswerKind
    """What answers there. The user's own ports are "tcp"."""
    proxy: bool
    """True: an address of the marketplace's proxy; False: a port of the host."""
    gets_in: bool
    """True if the instance can be used when this address answers: SSH, or a port that the launch requested."""


class Addresses:
    """The addresses of all instances of a market, in one port table."""

    def __init__(self, table: PortTable) -> None:
        self._table = table

    def give(self, instance: Instance, direct_ports: int) -> None:
        """Reserve the addresses of a new instance on a host with so many direct ports. None answers yet."""
        instance.ssh_port = self._table.reserve(count=_width(instance))
        instance.ports = {name: self._table.reserve() for name in mapped_ports(instance.launch, direct_ports)}

    def give_again(self, instance: Instance, direct_ports: int) -> None:
        """Reserve the addresses of a saved instance, if possible the same ones."""
        if instance.no_ssh:  # saved when there was only one way to be unreachable
            instance.unreachable, instance.no_ssh = "no_ssh", False
        if not instance.ssh_port:  # saved when the proxy and the host had one port
            instance.ssh_port = instance.ports.pop(_SSH, 0)
            missing = [name for name in mapped_ports(instance.launch, direct_ports) if name not in instance.ports]
            instance.ports |= dict.fromkeys(missing, 0)
        instance.ssh_port = self._table.reserve(instance.ssh_port or None, count=_width(instance))
        instance.ports = {name: self._table.reserve(port or None) for name, port in instance.ports.items()}

    def take_back(self, instance: Instance) -> None:
        """Release all addresses of an ended instance."""
        for number in _numbers(instance):
            self._table.release(number)

    def update(self, instance: Instance, now: float, *, running: bool, gpu_works: bool = True) -> None:
        """Let the right addresses answer. `running`: the container runs and its network and host are connected.

        Without `gpu_works`, the user's own ports answer that they are not healthy.
        """
        own: AnswerKind = "tcp" if gpu_works else "ill"
        found = answering(instance) if running else []
        kinds = {address.port: own if address.kind == "tcp" else address.kind for address in found}
        for number in _numbers(instance):
            self._table.set_open(number, kinds.get(number))
        if not (running and works(instance)):
            instance.works_since = None
        elif instance.works_since is None:
            instance.works_since = now


def run_kind(launch: Launch) -> RunKind:
    """The kind of the run type: what runs in the container."""
    words = launch.runtype.split()
    if "args" in words:
        return "args"
    return "jupyter" if any(word.startswith("jupyter") for word in words) else "ssh"


def mapped_ports(launch: Launch, direct_ports: int) -> list[str]:
    """The container ports that a host with so many direct ports maps ("22/tcp"), SSH first; no more than it has."""
    kind = run_kind(launch)
    names = [_SSH] if kind != "args" and "ssh_direc" in launch.runtype else []
    names += [_JUPYTER] if kind == "jupyter" else []
    names += requested_ports(launch)
    return list(dict.fromkeys(names))[:direct_ports]


def requested_ports(launch: Launch) -> list[str]:
    """The ports that a launch requests. "-p 8000:8000/udp" in env requests "8000/udp"."""
    names = []
    for key in launch.env:
        if key.startswith("-p "):
            inside, _, protocol = key[3:].strip().rpartition(":")[2].partition("/")
            if inside.isdigit():
                names.append(f"{inside}/{protocol or 'tcp'}")
    return names


def answering(instance: Instance) -> list[Address]:
    """The addresses that answer while the instance runs. UDP ports never do."""
    if instance.unreachable == "no_ssh":
        return []
    if instance.unreachable == "ssh_down":
        return [address for address in _all(instance) if address.kind != "ssh"]
    down = {"proxy_down": True, "direct_down": False}.get(instance.unreachable)
    return [address for address in _all(instance) if address.proxy is not down]


def works(instance: Instance) -> bool:
    """True if the instance can be used while it runs: one of its addresses answers with which one gets in.

    With an entry point of its own and no requested TCP port there is nothing to connect to; then running is enough.
    """
    wanted = [name for name in requested_ports(instance.launch) if name.endswith("/tcp")]
    if run_kind(instance.launch) == "args" and not wanted:
        return True
    return any(address.gets_in for address in answering(instance))


def authorized_keys(instance: Instance) -> list[str]:
    """The public keys that the instance's SSH server accepts: the registered ones, and those that onstart appended."""
    return [*instance.registered_keys, *(key for key in instance.appended_keys if key not in instance.registered_keys)]


def lets_in(instances: Iterable[Instance], port: int, public_key: str) -> bool:
    """True if the owner of a key can log in at an SSH port, provided that it answers. Comments of keys don't count."""
    wanted = _without_comment(public_key)
    for instance in instances:
        if any(address.port == port and address.kind == "ssh" for address in answering(instance)):
            return any(_without_comment(key) == wanted for key in authorized_keys(instance))
    return False


def register_key(instance: Instance, public_key: str) -> None:
    """Register a key for good. A key that is registered already is left as it is."""
    known = {_without_comment(key) for key in instance.registered_keys}
    if _without_comment(public_key) not in known:
        instance.registered_keys.append(public_key.strip())


def is_public_key(text: str) -> bool:
    """True for one line like "ssh-ed25519 AAAA... comment"."""
    return _PUBLIC_KEY.match(text.strip()) is not None and "\n" not in text.strip()


def run_onstart(instance: Instance) -> None:
    """Append the public keys that occur in the launch's onstart text. Nothing else of it is executed."""
    plain = "" if run_kind(instance.launch) == "args" else instance.launch.onstart or ""
    instance.appended_keys = list(dict.fromkeys(_PUBLIC_KEY.findall(plain)))


def _all(instance: Instance) -> Iterator[Address]:
    """The TCP addresses, whether they answer or not. Without SSH in the container, the proxy has nothing to forward."""
    kind = run_kind(instance.launch)
    if kind == "jupyter":
        yield Address(instance.ssh_port, "http", proxy=True, gets_in=False)
    if kind != "args":
        yield Address(instance.ssh_port + (kind == "jupyter"), "ssh", proxy=True, gets_in=True)
    requested = requested_ports(instance.launch)
    for name, number in instance.ports.items():
        if name == _SSH and kind != "args":
            yield Address(number, "ssh", proxy=False, gets_in=True)
        elif name.endswith("/tcp"):
            web = kind == "jupyter" and name == _JUPYTER
            yield Address(number, "http" if web else "tcp", proxy=False, gets_in=name in requested)


def _numbers(instance: Instance) -> Iterator[int]:
    """All reserved ports."""
    yield from range(instance.ssh_port, instance.ssh_port + _width(instance))
    yield from instance.ports.values()


def _width(instance: Instance) -> int:
    """The number of consecutive ports that the instance has at the proxy."""
    return 2 if run_kind(instance.launch) == "jupyter" else 1


def _without_comment(public_key: str) -> tuple[str, ...]:
    return tuple(public_key.split()[:2])

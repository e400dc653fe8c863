"""Containers on the sandbox's market whose boot scripts run for real, as they were sent, on the market's virtual time.

Every container has its own `sleep`, `curl` and `date`. They are small programs that ask this module: time passes only
while all containers sleep, and each request is answered by the sandbox's own API. So a test of hours takes seconds, and
no step depends on the speed of this computer. The server plays no part: it is dead.
"""

import contextlib
import heapq
import os
import re
import select
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from gpuproxy.ports import HttpRequest
from gpuproxy.sandbox.market.instances import Instance, Phase
from tests.boot.machine import kill, needed
from tests.world import World

_SECONDS = 600  # real; it only ends what hangs
_TOOLS = ("base64", "cat", "chmod", "env", "grep", "gzip", "head", "mkdir", "mktemp", "mv", "rm", "sed", "setsid", "sh",
          "tail", "touch", "tr", "true")  # fmt: skip
_SLEEP = """#!/bin/sh
case $1 in 0*) exec {sleep} "$1" ;; esac
echo "$GP_NAME sleep $1" >{bus}
read -r _ <"$HOME/reply"
"""
_CURL = """#!/bin/sh
[ "$1" != --version ] || exec echo curl 8
{{ cat && printf '%s\\n' "$@"; }} >"$HOME/request"
echo "$GP_NAME curl" >{bus}
read -r _ <"$HOME/reply"
exec cat "$HOME/answer"
"""
_DATE = """#!/bin/sh
read -r now <{clock}
echo $((now + GP_SKEW))
"""


@dataclass(slots=True)
class Container:
    """One start of a container."""

    instance: Instance
    name: str
    home: Path
    process: subprocess.Popen[bytes]
    replies: int
    """The open file by which its programs are answered."""
    asked: list[tuple[float, str]] = field(default_factory=list)
    """Its requests: the market's time, and the method."""


class Containers:
    """All containers of a world. Use it in a `with` statement, which ends all processes."""

    def __init__(self, world: World, folder: Path, shell: str = "dash") -> None:
        self._world = world
        self._folder = folder
        self._bin = folder / "bin"
        self._bin.mkdir()
        for tool in _TOOLS:
            (self._bin / tool).symlink_to(needed(shell if tool == "sh" else tool))
        self._clock = folder / "clock"
        bus = folder / "bus"
        os.mkfifo(bus)
        self._bus = os.open(bus, os.O_RDWR)
        self._heard = b""
        for name, text in (("sleep", _SLEEP), ("curl", _CURL), ("date", _DATE)):
            path = self._bin / name
            path.write_text(text.format(sleep=needed("sleep"), bus=bus, clock=self._clock))
            path.chmod(0o700)
        self._running: set[str] = set()
        self._asleep: list[tuple[float, str]] = []
        self.all: dict[str, Container] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        marks = {f"HOME={container.home}\0".encode() for container in self.all.values()}
        while found := [number for number in _numbers() if any(mark in _environment(number) for mark in marks)]:
            for number in found:
                kill(number)
        for container in self.all.values():
            container.process.wait()
            os.close(container.replies)
        os.close(self._bus)

    def start(self, contract: str, *, skew: int = 0) -> Container:
        """Start the container of an instance with its boot script. `skew`: the error of its clock, in seconds."""
        instance = self._world.sandbox.market.instances[int(contract)]
        name = f"{contract}-{len(self.all)}"
        home = self._folder / name
        home.mkdir()
        os.mkfifo(home / "reply")
        script = home / "onstart.sh"
        script.write_text(instance.launch.onstart or "", encoding="utf-8", newline="")
        self._tell_time()
        with (home / "printed").open("wb") as printed:
            process = subprocess.Popen(
                [str(self._bin / "sh"), str(script)],
                env={
                    "PATH": str(self._bin), "HOME": str(home), "GP_NAME": name, "GP_SKEW": str(skew),
                    "GPUPROXY_BOOT_CONSOLE": os.devnull, "CONTAINER_ID": contract,
                    "CONTAINER_API_KEY": instance.api_key,
                },
                stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        replies = os.open(home / "reply", os.O_RDWR)
        container = Container(instance, name, home, process, replies)
        self.all[name] = container
        self._running.add(name)
        self._hear_all()
        return container

    async def run(self, until: float) -> None:
        """Let the market's time pass until then."""
        while self._asleep and self._asleep[0][0] <= until:
            wakes, name = heapq.heappop(self._asleep)
            await self._pass(wakes)
            container = self.all[name]
            if container.instance.phase is not Phase.RUNNING or not self.exists(container):
                continue  # the marketplace has ended it, and all that ran in it
            self._running.add(name)
            self._reply(container)
            self._hear_all()
        await self._pass(until)

    def exists(self, container: Container) -> bool:
        """Whether the marketplace still has the instance."""
        return container.instance.id in self._world.sandbox.market.instances

    def ended_at(self, container: Container) -> float | None:
        """When the instance was destroyed, by the market's clock; None if it was not."""
        found = [each for each in self._world.sandbox.market.ended if each.id == container.instance.id]
        return found[0].destroyed_at if found else None

    @property
    def now(self) -> float:
        """The market's time."""
        return self._world.clock.now().timestamp()

    async def _pass(self, until: float) -> None:
        if until > self.now:
            await self._world.clock.sleep(until - self.now)
        self._world.sandbox.tick()
        self._tell_time()

    def _tell_time(self) -> None:
        self._clock.write_text(f"{int(self.now)}\n")

    def _hear_all(self) -> None:
        """Answer requests until all containers sleep."""
        while self._running:
            name, word, *rest = self._line().split()
            container = self.all[name]
            if word == "curl":
                self._answer(container)
            else:
                self._running.discard(name)
                heapq.heappush(self._asleep, (self.now + float(rest[0]), name))

    def _line(self) -> str:
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._bus], [], [], _SECONDS)
            assert ready, f"these containers neither sleep nor ask: {sorted(self._running)}"
            self._heard += os.read(self._bus, 4096)
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def _answer(self, container: Container) -> None:
        said = (container.home / "request").read_text().splitlines()
        key = re.search(r"Bearer ([\w-]+)", said[0])
        assert key is not None, said
        method, url = said[said.index("-X") + 1], said[-1]
        body = said[said.index("-d") + 1].encode() if "-d" in said else None
        container.asked.append((self.now, method))
        plan = self._world.sandbox.receive(
            HttpRequest(method=method, url=url, headers={"authorization": f"Bearer {key[1]}"}, body=body)
        )
        lines = []
        if plan.response is not None:
            lines = [f"HTTP/2 {plan.response.status}", *(f"{k}: {v}" for k, v in plan.response.headers.items()), ""]
            lines.append(plan.response.body.decode())
        (container.home / "answer").write_text("\r\n".join(lines))
        self._reply(container)

    def _reply(self, container: Container) -> None:
        os.write(container.replies, b"\n")


def _numbers() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _environment(number: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/environ").read_bytes()
    return b""

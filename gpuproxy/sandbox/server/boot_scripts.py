"""Running the start scripts of instances for real, in a shell and a temporary folder of each instance.

The folder is the instance's home. It stays while the instance is stopped and goes with it. Another folder stands for
each volume: all instances that mount the volume have it, and it goes with the volume. What a script leaves running is
killed when the instance stops. On Linux this finds every process with the folder in its environment, elsewhere only
the script's own process group.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gpuproxy.sandbox.market.instances import Instance, Phase
from gpuproxy.sandbox.market.volumes import Volume
from gpuproxy.sandbox.protocol.known_scripts import known_part
from gpuproxy.sandbox.world import Sandbox

_MOST_SECONDS = 600.0  # real
_MOST_LINES = 1_000  # of an instance; the first ones are dropped
_MOST_CHARACTERS = 4_000  # of a line
_CLOSE_SECONDS = 10.0
_SHORTEST_MINUTE = 0.5  # real seconds. A minute of the market is shorter at a fast scale, but each takes processes
_PASSES = 5  # a process may start another one while its own end is under way
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_RUN = "sandbox: the start script was not run, because it is not GPU Proxy's (--boot-scripts ours)"
_Start = tuple[int, int]
"""One start of one instance: its id, and how often it has started."""


class BootScripts:
    """The start scripts of the running instances of one sandbox."""

    def __init__(self, sandbox: Sandbox, url: str) -> None:
        """`url`: where the sandbox serves the marketplace's API to the scripts."""
        self._market = sandbox.market
        self._url = url
        self._minute = max(60 / sandbox.clock.scale, _SHORTEST_MINUTE)
        if sandbox.options.boot_scripts != "off":
            self._market.workloads.use_real_scripts()
        self._mode = sandbox.options.boot_scripts
        self._started: dict[_Start, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._processes: dict[int, Process] = {}
        self._volumes: set[int] = set()
        self._base: Path | None = None

    def follow(self) -> None:
        """Start and end scripts as their instances start and end. Call it in the event loop."""
        if self._mode == "off":
            return
        instances = self._market.instances
        running = {
            (each.id, each.restarts): each
            for each in instances.values()
            if each.phase is Phase.RUNNING and each.launch.onstart
        }
        for start in self._started.keys() - running.keys():
            self._end(start)
        for number in self._market.printed.keys() - instances.keys():
            self._forget(number)
        self._forget_volumes()
        for start in running.keys() - self._started.keys():
            self._started[start] = asyncio.create_task(self._run(running[start]))

    async def close(self) -> None:
        """End all scripts and remove their folders."""
        for start in list(self._started):
            self._end(start)
        if self._ending:
            await asyncio.wait(self._ending, timeout=_CLOSE_SECONDS)
        if self._base is not None:
            shutil.rmtree(self._base, ignore_errors=True)

    async def _run(self, instance: Instance) -> None:
        printed = self._market.printed.setdefault(instance.id, deque(maxlen=_MOST_LINES))
        hand_over = partial(self._printed, instance, instance.restarts)
        sent = instance.launch.onstart or ""
        script = known_part(sent) if self._mode == "ours" else sent
        if script is None:
            printed.append(_NOT_RUN)
            return
        folder = self._folder(str(instance.id))
        try:
            process = await _process(_written(folder, script), self._environment(instance, folder))
        except OSError as error:
            printed.append(f"sandbox: the start script could not be run: {error}")
            return
        self._processes[instance.id] = process
        try:
            async with asyncio.timeout(_MOST_SECONDS):
                await _read_lines(process, hand_over)
                await process.wait()
        except TimeoutError:
            printed.append(f"sandbox: the start script was ended after {_MOST_SECONDS:.0f} real seconds")
            _kill(process, folder)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await process.communicate()

    def _printed(self, instance: Instance, restarts: int, lines: Sequence[str]) -> None:
        self._market.printed.setdefault(instance.id, deque(maxlen=_MOST_LINES)).extend(lines)
        if instance.restarts == restarts:
            for line in lines:
                self._market.workloads.reported(instance, line)

    def _end(self, start: _Start) -> None:
        number = start[0]
        task = self._started.pop(start)
        if self._base is not None:
            _kill(self._processes.pop(number, None), self._base / str(number))
        if not task.done():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _forget(self, number: int) -> None:
        del self._market.printed[number]
        if self._base is not None:
            shutil.rmtree(self._base / str(number), ignore_errors=True)

    def _forget_volumes(self) -> None:
        for number in [number for number in self._volumes if self._market.volumes.all[number].deleted_at is not None]:
            self._volumes.remove(number)
            shutil.rmtree(self._folder(f"V.{number}"), ignore_errors=True)

    def _folder(self, name: str) -> Path:
        if self._base is None:
            self._base = Path(tempfile.mkdtemp(prefix="gpuproxy-sandbox-"))
        folder = self._base / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _volume(self, volume: Volume) -> Path:
        """The folder that stands for a volume. After a restart of the sandbox it has only the nonce."""
        folder = self._folder(f"V.{volume.id}")
        pool = folder / ".gpuproxy" / "pool"
        if volume.nonce and not pool.exists():
            pool.parent.mkdir(mode=0o700, exist_ok=True)
            pool.write_text(f"{volume.nonce}\n", encoding="utf-8")
        self._volumes.add(volume.id)
        return folder

    def _environment(self, instance: Instance, folder: Path) -> dict[str, str]:
        """PATH and HOME, and the instance's own variables where its own script runs.

        Our part alone needs none of them, and a variable such as LD_PRELOAD would run what the sender chose.
        """
        ours = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "GPUPROXY_BOOT_DIR": str(folder / ".gpuproxy"),
            "GPUPROXY_BOOT_CONSOLE": os.devnull,
            "GPUPROXY_BOOT_API": self._url,
            "GPUPROXY_BOOT_MINUTE": f"{self._minute:.3f}",
            "CONTAINER_ID": str(instance.id),
            "CONTAINER_API_KEY": instance.api_key,
        }
        volume = self._market.workloads.mounted(instance)
        if volume is not None:
            ours["GPUPROXY_BOOT_VOLUME"] = str(self._volume(volume))
        elif instance.launch.boot is not None:  # the path of a lock is a folder of this computer, and not of the script
            ours |= {"GPUPROXY_BOOT_VOLUME": str(folder), "GPUPROXY_BOOT_UNMOUNTED": "1"}
        if self._mode == "ours":
            return {**ours, "GPUPROXY_BOOT_ONSTART": "skip"}
        theirs = {name: value for name, value in instance.launch.env.items() if _NAME.fullmatch(name)}
        return {**{name: value for name, value in theirs.items() if "\0" not in value}, **ours}


def _written(folder: Path, script: str) -> Path:
    path = folder / "onstart.sh"
    path.write_text(script, encoding="utf-8", errors="replace", newline="")
    return path


async def _process(script: Path, environment: dict[str, str]) -> Process:
    return await asyncio.create_subprocess_exec(
        "sh",
        str(script),
        cwd=script.parent,
        env=environment,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )


async def _read_lines(process: Process, printed: Callable[[Sequence[str]], None]) -> None:
    """Hand over what the script prints, as lines, until it and what it left running have closed their stdout."""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    begun = b""
    while data := await process.stdout.read(64 * 1024):
        *lines, begun = (begun + data).split(b"\n")
        if len(begun) > _MOST_CHARACTERS:
            lines, begun = [*lines, begun], b""
        printed([_text(line) for line in lines])
    if begun:
        printed([_text(begun)])


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")[:_MOST_CHARACTERS]


def _kill(process: Process | None, folder: Path) -> None:
    """Kill the script and all that it has started and that can be found."""
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    for _ in range(_PASSES):
        found = _processes_of(folder)
        if not found:
            return
        for number in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)


def _processes_of(folder: Path) -> list[int]:
    """The processes that have the folder as their HOME. Empty on systems without /proc."""
    mark = f"HOME={folder}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in b"\0" + path.read_bytes():
                found.append(int(path.parent.name))
    return [number for number in found if number != os.getpid()]

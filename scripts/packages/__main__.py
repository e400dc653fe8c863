"""Build the wheel and the sdist into dist/, install the wheel into empty environments, and do the main job there.

Prints a line for each thing that held and ends with `dist: N checks passed`; exits 1 at the first that did not. If the
package index can't be reached, the wheel is built but not tried: the last line says so, and with CI set it fails.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts import demo
from scripts.packages import contents, environments
from scripts.packages.contents import ROOT
from scripts.packages.environments import Environment
from tests.own_venv import NotInstalled

DIST = ROOT / "dist"
JOB = ROOT / "scripts" / "packages" / "client_job.py"
OF_GRPCIO = frozenset({"typing_extensions"})
"""What grpcio itself needs."""


class Wrong(Exception):
    """Something is not as it must be; the text says what."""


def main() -> int:
    """0 when everything held."""
    options = argparse.ArgumentParser(prog="make dist", description=__doc__)
    options.add_argument("--build-only", action="store_true", help="install nothing")
    chosen = options.parse_args()
    passed = 0
    try:
        with tempfile.TemporaryDirectory(prefix="gpuproxy-dist-") as folder:
            wheel, checks = built(Path(folder))
            passed += held(iter(checks))
            if not chosen.build_only:
                passed += held(tried(wheel, Path(folder)))
    except NotInstalled as failure:
        if failure.unreachable and not os.environ.get("CI"):
            print(f"{failure}\ndist: built but NOT TRIED, because the package index can't be reached", file=sys.stderr)
            return 0
        print(f"dist failed: {failure}", file=sys.stderr)
        return 1
    except (Wrong, ValueError, demo.Failed, subprocess.TimeoutExpired) as failure:
        print(f"dist failed: {failure}", file=sys.stderr)
        return 1
    print(f"dist: {passed} checks passed; {', '.join(sorted(path.name for path in DIST.iterdir()))} are in dist/")
    if changed := contents.uncommitted():
        print(f"dist: these files have changes that are not committed:\n{changed}", file=sys.stderr)
    return 0


def held(checks: Iterator[str]) -> int:
    """How many; each is printed as soon as it held."""
    passed = 0
    for passed, check in enumerate(checks, 1):  # noqa: B007 - the number of the last one
        print(f"ok   {check}", flush=True)
    return passed


def built(folder: Path) -> tuple[Path, list[str]]:
    """The wheel in dist/, with the sdist beside it, and what holds for both."""
    epoch = contents.epoch()
    shutil.rmtree(DIST, ignore_errors=True)
    sdist, wheel = (contents.build(kind, ROOT, DIST, epoch=epoch) for kind in ("sdist", "wheel"))
    names = contents.names_in(wheel)
    if wrong := [
        *contents.wrong_files(names, contents.expected()),
        *contents.wrong_metadata(contents.metadata_of(wheel)),
    ]:
        raise Wrong(f"{wheel.name}:\n" + "\n".join(wrong))
    again = contents.wheel_of(sdist, folder / "sdist", epoch=epoch)
    must("the wheel built from the sdist has the same bytes", again.read_bytes() == wheel.read_bytes())
    return wheel, [
        f"{wheel.name} has {len(names)} files: the package, stubs, type stubs, .proto files, assets, licence",
        f"a wheel built from {sdist.name} has the same bytes",
    ]


def tried(wheel: Path, folder: Path) -> Iterator[str]:
    """What holds in empty environments: the server's, the client's, the one of the client commands."""
    server, client = environments.made(folder / "server"), environments.made(folder / "client")
    server.install(wheel, "server")
    yield "gpuproxy[server] is installed in an empty environment"
    client.install(wheel)
    yield bare(client)
    yield from without_server(client, folder, "The command line is not installed", "gpuproxy[server]")
    yield typed(client, folder)
    (folder / "books").mkdir()
    with demo.started(folder / "books", folder / "server.log", (server.program("gpuproxy"),)) as place:
        yield "the installed server runs on its simulated market"
        yield main_job(place)
        yield client_job(client, place, folder)
        client.install(wheel, "cli")
        yield client_commands(client, place, folder)
    yield from without_server(client, folder, "gpuproxy serve needs the server", "pip install 'gpuproxy[server]'")


def bare(client: Environment) -> str:
    """A bare install has nothing but the client and what grpcio itself needs."""
    found = client.packages()
    wanted = contents.CLIENT_NEEDS | OF_GRPCIO | {"gpuproxy"}
    must(f"pip list of a bare install is {sorted(found)}, not {sorted(wanted)}", found == wanted)
    return f"pip list of a bare install: {', '.join(sorted(found))}"


def without_server(client: Environment, folder: Path, *texts: str) -> Iterator[str]:
    """`gpuproxy serve` prints one line that says what to install."""
    done = client.run("gpuproxy", "serve", folder=folder)
    line = done.stderr.strip()
    clear = done.returncode == 2 and "\n" not in line and not done.stdout and all(text in line for text in texts)
    must(f"gpuproxy serve without the server printed (exit code {done.returncode}): {done.stderr}", clear)
    yield f"gpuproxy serve without the server: {line}"


def typed(client: Environment, folder: Path) -> str:
    """Mypy reads the types of the installed client; without py.typed it would refuse."""
    program = shutil.copy(JOB, folder / "client_job.py")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "mypy")]
    done = subprocess.run(
        [*mypy, "--python-executable", client.program("python"), str(program)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    must(f"mypy of a program with the installed client:\n{done.stdout}", not done.returncode)
    return "mypy --strict accepts a program with the installed client"


def main_job(place: demo.Place) -> str:
    """List, reserve, show and release with the installed command line."""
    listed = json.loads(demo.quietly(place, "list", *demo.OPTIONS, "--json"))
    made = json.loads(demo.quietly(place, "reserve", "2", *demo.OPTIONS, "--json"))
    must("list shows offers, and reserve rents 2 of them", listed["total_count"] and made["reserved_count"] == 2)
    demo.quietly(place, "release", made["reservation_id"], "--yes")
    demo.gone(place, "the market to destroy the released machines")
    return "gpuproxy list, reserve, release: 2 machines rented and destroyed"


def client_job(client: Environment, place: demo.Place, folder: Path) -> str:
    """The same with the Python client of the bare environment."""
    settings = {"GPUPROXY_SERVER": place.grpc, "GPUPROXY_API_KEY": place.key}
    done = client.run("python", "-I", str(JOB), folder=folder, settings=settings)
    must(f"the Python client's main job:\n{done.stdout}{done.stderr}", not done.returncode)
    must(f"the refusal has its details: {done.stdout}", "refused: INVALID_ARGUMENT ['count']" in done.stdout)
    demo.gone(place, "the market to destroy the machines of the Python client")
    return "the Python client alone: " + "; ".join(done.stdout.splitlines())


def client_commands(client: Environment, place: demo.Place, folder: Path) -> str:
    """With the extra `cli`, every client command works, and one asks the server."""
    settings = {"GPUPROXY_SERVER": place.grpc, "GPUPROXY_API_KEY": place.key}
    done = client.run("gpuproxy", "ps", "--json", folder=folder, settings=settings)
    must(f"gpuproxy ps of gpuproxy[cli]:\n{done.stdout}{done.stderr}", not done.returncode)
    must("gpuproxy ps shows nothing that is paid for", json.loads(done.stdout)["instances"] == [])
    extra = client.packages() - contents.CLIENT_NEEDS - OF_GRPCIO
    return f"gpuproxy ps of gpuproxy[cli], which has: {', '.join(sorted(extra))}"


def must(what: str, holds: object) -> None:
    """Raise Wrong if it does not hold."""
    if not holds:
        raise Wrong(what)


if __name__ == "__main__":
    sys.exit(main())

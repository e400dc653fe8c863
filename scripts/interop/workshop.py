"""What the other languages need: their tools, the stubs from our contract, the built programs; all below `.interop`.

Versions are pinned here, in go/go.mod and in node/package-lock.json. The first run fetches them through the languages'
own package managers; what is there already is used again.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import google.rpc

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "scripts" / "interop"
SHOP = ROOT / ".interop"
BIN = SHOP / "bin"
GOOGLE = Path(next(iter(google.rpc.__path__))).parents[1]
"""Where google/rpc/*.proto are."""
GO_TOOLS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0",
    "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4",
}
NEEDED = {"go": "Go 1.25 or newer", "node": "Node 20 or newer", "npm": "npm"}
_EXAMPLES = ROOT / "docs" / "examples" / "README.md"


class Unable(Exception):
    """Something that this needs is not here, or could not be made; the text says what."""


def tools() -> None:
    """The languages must be here; their plug-ins and grpcurl are built."""
    missing = [name for command, name in NEEDED.items() if shutil.which(command) is None]
    if missing:
        raise Unable(f"needs {', '.join(missing)} on the PATH")
    for name, package in GO_TOOLS.items():
        mark = BIN / f".{name}-{package.rpartition('@')[2]}"
        if not mark.exists():
            _run(SHOP, "go", "install", package)
            mark.touch()


def go_programs(address: str) -> dict[str, Path]:
    """Each Go program by its name, built against stubs of our contract; they call `address`."""
    module = SHOP / "go"
    shutil.rmtree(module, ignore_errors=True)
    shutil.copytree(HERE / "go", module)
    _stubs(module, ROOT / "proto", "gpuproxy/v1/gpuproxy.proto")
    _stubs(module, HERE, "published.proto")
    for number, text in enumerate(_blocks("go"), 1):
        (module / "cmd" / f"example{number}").mkdir()
        (module / "cmd" / f"example{number}" / "main.go").write_text(text, encoding="utf-8")
    for source in (module / "cmd").rglob("*.go"):
        source.write_text(source.read_text(encoding="utf-8").replace("localhost:9090", address), encoding="utf-8")
    built = {}
    for folder in sorted((module / "cmd").iterdir()):
        built[folder.name] = BIN / f"interop-{folder.name}"
        _run(module, "go", "build", "-o", str(built[folder.name]), f"./cmd/{folder.name}")
    return built


def node_programs(address: str) -> dict[str, Path]:
    """Each Node program by its name, beside its packages."""
    folder = SHOP / "node"
    folder.mkdir(parents=True, exist_ok=True)
    for source in (HERE / "node").iterdir():
        shutil.copy(source, folder)
    lock = (folder / "package-lock.json").read_bytes()
    mark = folder / ".installed"
    if not mark.exists() or mark.read_bytes() != lock:
        _run(folder, "npm", "ci", "--prefer-offline", "--no-audit", "--no-fund")
        mark.write_bytes(lock)
    made = {"main": folder / "main.js"}
    for number, text in enumerate(_blocks("javascript"), 1):
        made[f"example{number}"] = folder / f"example{number}.js"
        made[f"example{number}"].write_text(text.replace("localhost:9090", address), encoding="utf-8")
    return made


def _stubs(module: Path, folder: Path, contract: str) -> None:
    command = (sys.executable, "-m", "grpc_tools.protoc", "-I", str(folder), contract)
    _run(module, *command, *(f"--{kind}_out={module}" for kind in ("go", "go-grpc")), *_layout(module))


def _layout(module: Path) -> Iterator[str]:
    """Go packages go where their import path says, below the module's own."""
    name = re.search(r"^module (\S+)", (module / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    for kind in ("go", "go-grpc"):
        yield f"--{kind}_opt=module={name[1] if name else ''}"


def _blocks(language: str) -> list[str]:
    text = _EXAMPLES.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _run(folder: Path, *command: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    BIN.mkdir(parents=True, exist_ok=True)
    env = {
        **os.environ,
        "GOBIN": str(BIN),
        "GOFLAGS": "-buildvcs=false",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise Unable(f"{' '.join(command)}\n{done.stdout}{done.stderr}")

"""What the other languages need: their tools, the stubs from our contract, the built programs; all below `.interop`.

Versions are pinned here, in go/go.mod and in node/package-lock.json. The first run fetches them through the languages'
own package managers; what is there already is used again.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
GO_PLUGINS = ("protoc-gen-go", "protoc-gen-go-grpc")
GO_PACKAGE = "github.com/aiserve/gpuproxy/proto"
_OLD_CLIENT = "github.com/aiserve/gpuproxy"
"""The module of the programs, with the stubs of a client that was compiled from the contract as first published."""
NEEDED = {"go": "Go 1.25 or newer", "node": "Node 20 or newer", "npm": "npm"}
_EXAMPLES = ROOT / "docs" / "examples" / "README.md"


class Unable(Exception):
    """Something that this needs is not here, or could not be made; the text says what."""


def tools() -> None:
    """The languages must be here; their plug-ins and grpcurl are built."""
    missing = [name for command, name in NEEDED.items() if shutil.which(command) is None]
    if missing:
        raise Unable(f"needs {', '.join(missing)} on the PATH")
    for name in GO_TOOLS:
        _install(name)


def python_program(address: str) -> tuple[str, str]:
    """The command of the Python example with own stubs, after the commands of the docs in an empty folder."""
    folder = SHOP / "python"
    shutil.rmtree(folder, ignore_errors=True)
    section = (
        _EXAMPLES.read_text(encoding="utf-8").partition("### Python with stubs of your own")[2].partition("\n## ")[0]
    )
    for command in re.findall(r"^    \$ (.*)", section, re.MULTILINE):
        _run(folder, "sh", "-c", command.replace("/path/to/gpuproxy", str(ROOT)))
    program = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[0]
    (folder / "rent.py").write_text(program.replace("localhost:9090", address), encoding="utf-8")
    return str(folder / "venv" / "bin" / "python"), str(folder / "rent.py")


def can_make_go_package(*, install: bool) -> bool:
    """Whether the plug-ins for Go are here; with `install`, they are built first if Go is here."""
    if install and shutil.which("go"):
        for name in GO_PLUGINS:
            _install(name)
    return all(_mark(name).exists() for name in GO_PLUGINS)


def go_package() -> dict[str, bytes]:
    """The generated files of the Go package in proto/, by their path in the project."""
    with tempfile.TemporaryDirectory(prefix="gpuproxy-go-") as folder:
        for contract in ("gpuproxy/v1/gpuproxy.proto", "gpuproxy/v1/published.proto"):
            _stubs(Path(folder), GO_PACKAGE, (ROOT / "proto", ROOT / "proto" / "published"), contract)
        files = sorted(Path(folder).rglob("*.go"))
        return {f"proto/{file.relative_to(folder)}": file.read_bytes() for file in files}


def check_go_package() -> None:
    """Raise Unable if a file of the Go package is not what the contract says, or if its module is not tidy."""
    for path, content in go_package().items():
        if not (ROOT / path).exists() or (ROOT / path).read_bytes() != content:
            raise Unable(f"{path} is not what the contract says: run scripts/proto")
    _run(ROOT / "proto", "go", "mod", "tidy", "-diff")
    _run(ROOT / "proto", "go", "vet", "./...")


def test_go(module: Path) -> None:
    """Raise Unable if the tests of a Go module fail."""
    _run(module, "go", "test", "./...")


def go_programs(address: str) -> dict[str, Path]:
    """Each Go program by its name, built against the Go package of this checkout; they call `address`."""
    module = SHOP / "go"
    shutil.rmtree(module, ignore_errors=True)
    shutil.copytree(HERE / "go", module)
    _run(module, "go", "mod", "edit", f"-replace={GO_PACKAGE}={ROOT / 'proto'}")
    _stubs(module, _OLD_CLIENT, (HERE,), "published.proto")
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


def _install(name: str) -> None:
    if not _mark(name).exists():
        _run(SHOP, "go", "install", GO_TOOLS[name])
        _mark(name).touch()


def _mark(name: str) -> Path:
    return BIN / f".{name}-{GO_TOOLS[name].rpartition('@')[2]}"


def _stubs(folder: Path, module: str, roots: Sequence[Path], contract: str) -> None:
    """The Go files of a contract. Packages go where their import path says, below the module's own."""
    command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{root}" for root in roots), contract]
    for kind in ("go", "go-grpc"):
        command += [f"--{kind}_out={folder}", f"--{kind}_opt=module={module}"]
    _run(folder, *command)


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

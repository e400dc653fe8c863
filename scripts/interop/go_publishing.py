"""The Go package as a stranger gets it: from a module proxy, by its import path and a version, without `replace`.

The proxy is a folder laid out as Go's module proxy protocol says, with the files under version control in proto/.
Everything else comes from the usual proxy.
"""

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

from scripts.interop.workshop import GO_PACKAGE, ROOT, SHOP, Unable

_PROGRAM = """package main

import (
	"fmt"

	pb "github.com/aiserve/gpuproxy/proto"
	"github.com/aiserve/gpuproxy/proto/published"
)

func main() {
	request := &pb.ReserveGPUsRequest{Count: 4, RequestId: "train-7"}
	fmt.Println(request.GetCount(), pb.GPUProxyService_ReserveGPUs_FullMethodName)
	fmt.Println(published.GPUProxyService_ReserveGPUs_FullMethodName)
}
"""
_PRINTED = "4 /gpuproxy.v1.GPUProxyService/ReserveGPUs\n/gpuproxy.GPUProxyService/ReserveGPUs\n"


def check_published_module() -> None:
    """Raise Unable if a program in a module of its own can't get, build and run against the published package."""
    place = SHOP / "go-stranger"
    shutil.rmtree(place, ignore_errors=True)
    version = _publish(place / "proxy")
    program = place / "program"
    program.mkdir()
    (program / "main.go").write_text(_PROGRAM, encoding="utf-8")
    env = _environment(place)
    shutil.copy(ROOT / "proto" / "go.sum", program)  # the hashes of what it needs are known; none are looked up
    _go(program, env, "mod", "init", "example.org/stranger")
    _go(program, env, "get", f"{GO_PACKAGE}@{version}")
    _go(program, env, "mod", "tidy")
    if "replace" in (program / "go.mod").read_text(encoding="utf-8"):
        raise Unable("the program that uses the published Go package has a replace directive")
    if (printed := _go(program, env, "run", ".")) != _PRINTED:
        raise Unable(f"the program that uses the published Go package printed {printed!r}")


def _publish(proxy: Path) -> str:
    """Lay out the module under its import path. Its version follows from its files: Go keeps each version for ever."""
    files = {name: (ROOT / "proto" / name).read_bytes() for name in _files()}
    files["LICENSE"] = (ROOT / "LICENSE").read_bytes()  # Go takes that of the repository's root
    digest = hashlib.sha256(b"".join(name.encode() + content for name, content in sorted(files.items()))).hexdigest()
    version = f"v0.0.0-interop{digest[:12]}"
    folder = proxy / GO_PACKAGE / "@v"
    folder.mkdir(parents=True)
    (folder / "list").write_text(f"{version}\n")
    (folder / f"{version}.info").write_text(json.dumps({"Version": version, "Time": "2026-01-01T00:00:00Z"}))
    shutil.copy(ROOT / "proto" / "go.mod", folder / f"{version}.mod")
    with zipfile.ZipFile(folder / f"{version}.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{GO_PACKAGE}@{version}/{name}", content)
    return version


def _files() -> list[str]:
    """The files of the module that are under version control."""
    listed = subprocess.run(["git", "ls-files", "."], cwd=ROOT / "proto", check=True, capture_output=True, text=True)
    return listed.stdout.splitlines()


def _environment(place: Path) -> dict[str, str]:
    """Our module from the folder, all others as usual."""
    usual = subprocess.run(["go", "env", "GOPROXY"], check=True, capture_output=True, text=True).stdout.strip()
    return {
        **os.environ,
        "GOPROXY": f"{(place / 'proxy').as_uri()},{usual}",
        "GONOSUMDB": f"{GO_PACKAGE},{os.environ.get('GONOSUMDB', '')}",
        "GOFLAGS": "-mod=mod",
        "GOWORK": "off",
    }


def _go(folder: Path, env: dict[str, str], *words: str) -> str:
    done = subprocess.run(["go", *words], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise Unable(f"go {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout

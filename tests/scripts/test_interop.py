"""`make interop` compiles what was published: its Go snippets are the document's, its old contract is part of ours."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.interop import go_publishing, workshop

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT.parent / "shared" / "seeds" / "gpu-reservations.md"
SNIPPETS = ROOT / "scripts" / "interop" / "go" / "cmd" / "seed" / "snippets.go"


def lines(text: str) -> list[str]:
    """Lines of code: without indentation, blank lines, and what the harness added."""
    kept = (line.strip() for line in text.splitlines() if not line.rstrip().endswith("//+"))
    return [line.replace(" authenticated()", "") for line in kept if line]


def test_every_go_snippet_of_the_published_document_is_compiled_as_it_stands() -> None:
    if not SEED.exists():
        pytest.skip("the published document is not here")
    compiled = "\n".join(lines(SNIPPETS.read_text(encoding="utf-8")))
    snippets = re.findall(r"```go\n(.*?)```", SEED.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) >= 15
    for snippet in snippets:
        assert "\n".join(lines(snippet)) in compiled, snippet


def test_the_contract_as_it_was_published_is_a_part_of_ours(tmp_path: Path) -> None:
    image = tmp_path / "published.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(workshop.HERE), f"--descriptor_set_out={image}"]
    subprocess.run([*command, "published.proto"], check=True, timeout=1200)
    published = FileDescriptorSet.FromString(image.read_bytes()).file[0]
    ours = pb.DESCRIPTOR.message_types_by_name
    for message in published.message_type:
        fields = ours[message.name].fields_by_name
        for field in message.field:
            same = fields[field.name]
            assert (same.number, same.type, field.number < 20) == (field.number, field.type, True), field.name
    calls = pb.DESCRIPTOR.services_by_name["GPUProxyService"].methods_by_name
    assert {method.name for method in published.service[0].method} <= set(calls)


def test_a_missing_language_is_reported_and_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(workshop.Unable, match=r"Go .*Node .*npm"):
        workshop.tools()


def test_the_go_module_is_published_as_it_is_under_version_control(tmp_path: Path) -> None:
    version = go_publishing._publish(tmp_path)
    folder = tmp_path / workshop.GO_PACKAGE / "@v"
    with zipfile.ZipFile(folder / f"{version}.zip") as archive:
        names = {name.removeprefix(f"{workshop.GO_PACKAGE}@{version}/") for name in archive.namelist()}
    assert {"go.mod", "go.sum", "gpuproxy.pb.go", "published/published_grpc.pb.go", "LICENSE"} <= names
    assert (folder / f"{version}.mod").read_text(encoding="utf-8").startswith(f"module {workshop.GO_PACKAGE}\n")
    assert "replace" not in (folder / f"{version}.mod").read_text(encoding="utf-8")


def test_another_content_is_published_as_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = go_publishing._publish(tmp_path / "whole")
    without = [name for name in go_publishing._files() if name != "gpuproxy_grpc.pb.go"]
    monkeypatch.setattr(go_publishing, "_files", lambda: without)
    assert go_publishing._publish(tmp_path / "less") != version

"""The package's folders: a line has one place where it belongs, and imports point downwards."""

import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gpuproxy"
ROOT_FILES = {"__init__.py", "__main__.py", "py.typed"}
VAGUE = {"utils", "helpers", "common", "base", "manager", "misc"}
KNOW_MARKETPLACES = ("providers", "sandbox", "v1")


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if "v1" not in path.relative_to(PACKAGE).parts]


def contracts() -> list[dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


def layered() -> set[str]:
    layers = next(each["layers"] for each in contracts() if each.get("containers") == ["gpuproxy"])
    return {name.strip("( )") for layer in layers for name in layer.split("|")}


def test_nothing_else_is_in_the_root_of_the_package():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= ROOT_FILES


def test_every_package_and_module_is_in_a_layer():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} <= layered()


def test_every_layer_contract_of_a_folder_covers_all_of_it():
    assert all(each["exhaustive"] for each in contracts() if each["type"] == "layers" and "containers" in each)


def test_no_file_has_a_vague_name_or_the_name_of_its_folder():
    bad = [path for path in modules() if path.stem in VAGUE or path.stem == path.parent.name]
    assert not bad


def test_a_marketplace_is_named_in_its_adapter_and_its_dialect_only():
    elsewhere = [path for path in modules() if path.relative_to(PACKAGE).parts[0] not in KNOW_MARKETPLACES]
    assert not [path for path in elsewhere if "vast" in path.read_text(encoding="utf-8").lower()]
    assert [path for path in modules() if "vast" in path.read_text(encoding="utf-8").lower()]


def test_there_are_no_cycles_between_modules():
    graph = grimp.build_graph("gpuproxy", cache_dir=None)
    chains = [
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if importer != imported and graph.chain_exists(imported, importer)
    ]
    assert not chains

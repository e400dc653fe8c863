"""The wheel and the sdist have every file of the package, and ask for what they must. `make dist` installs them."""

import hashlib
import shutil
from pathlib import Path

import pytest

from scripts.packages import contents

pytestmark = pytest.mark.long

NEEDED = (
    "gpuproxy/py.typed",
    "gpuproxy/proto/gpuproxy/v1/gpuproxy.proto",
    "gpuproxy/proto/google/api/annotations.proto",
    "gpuproxy/proto/published/gpuproxy/v1/published.proto",
    "gpuproxy/v1/gpuproxy_pb2.py",
    "gpuproxy/v1/gpuproxy_pb2.pyi",
    "gpuproxy/v1/gpuproxy_pb2_grpc.pyi",
    "gpuproxy/v1/comments.json",
    "gpuproxy/client/service_config.json",
    "gpuproxy/boot/sh/run.sh",
)


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    assert not contents.wrong_files(contents.names_in(wheel), contents.expected())


@pytest.mark.parametrize("name", NEEDED)
def test_a_wheel_without_one_of_them_is_refused(wheel: Path, name: str) -> None:
    names = contents.names_in(wheel)
    assert name in names
    assert contents.wrong_files(names - {name}, contents.expected()) == [f"{name} is missing"]


def test_a_wheel_without_the_licence_or_the_entry_points_is_refused(wheel: Path) -> None:
    names = {name for name in contents.names_in(wheel) if not name.endswith(("/LICENSE", "/entry_points.txt"))}
    expected = ["dist-info/entry_points.txt is missing", "dist-info/licenses/LICENSE is missing"]
    assert contents.wrong_files(names, contents.expected()) == expected


def test_a_wheel_with_a_foreign_file_is_refused(wheel: Path) -> None:
    names = contents.names_in(wheel) | {"tests/world.py"}
    assert contents.wrong_files(names, contents.expected()) == ["tests/world.py does not belong there"]


def test_a_bare_install_asks_for_the_clients_packages_only(wheel: Path) -> None:
    assert not contents.wrong_metadata(contents.metadata_of(wheel))


def test_one_more_package_for_everybody_is_refused(wheel: Path) -> None:
    text = contents.metadata_of(wheel)
    heavier = text.replace("Requires-Dist: aiohttp>=3.11; extra == 'server'", "Requires-Dist: aiohttp>=3.11")
    assert contents.wrong_metadata(heavier) == ["a bare install also needs aiohttp"]
    assert contents.wrong_metadata(text.replace("Provides-Extra: server\n", "")) == [
        "the extra server is not as expected"
    ]


def test_a_wheel_built_from_the_sdist_has_the_same_bytes(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    again = contents.wheel_of(sdist, tmp_path, epoch=contents.epoch())
    assert _digest(again) == _digest(wheel)


def test_a_build_depends_on_the_time_of_the_commit_only(sdist: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.unpack_archive(sdist, source, filter="data")
    project = next(source.iterdir())
    for path in project.rglob("*"):
        path.touch()
    same = contents.build("sdist", project, tmp_path / "same", epoch=contents.epoch())
    later = contents.build("sdist", project, tmp_path / "later", epoch=str(int(contents.epoch()) + 2))
    assert _digest(same) == _digest(sdist) != _digest(later)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""The key of warm pools' secrets is made once, kept in a private file, and never replaced while it is in use."""

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from gpuproxy.adapters.system import SystemRandom
from gpuproxy.app.secrets_key import secrets_key

RANDOM = SystemRandom()


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = secrets_key(file, RANDOM, in_use=False)
    assert key is not None
    assert Fernet(key).decrypt(Fernet(key).encrypt(b"x")) == b"x"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secrets_key(file, RANDOM, in_use=True) == key


def test_a_lost_key_is_not_replaced_while_secrets_need_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    assert secrets_key(file, RANDOM, in_use=True) is None
    assert not file.exists()


@pytest.mark.parametrize("content", ["short", "a" * 44, "\xff"])
def test_a_file_without_a_key_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key"
    file.write_text(content, encoding="latin-1")
    assert secrets_key(file, RANDOM, in_use=False) is None
    assert file.read_text(encoding="latin-1") == content


def test_a_key_that_others_could_read_is_restricted(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(Fernet.generate_key())
    file.chmod(0o644)
    assert secrets_key(file, RANDOM, in_use=False) is not None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    assert secrets_key(tmp_path / "nowhere" / "key", RANDOM, in_use=False) is None

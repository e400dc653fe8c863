"""`gpuproxy ssh-keys`: public keys are added, listed and deleted. A private key is never sent."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.cli.world import Run, World


def make_key(folder: Path, name: str = "id_ed25519", comment: str = "laptop") -> str:
    """Write a key pair as ssh-keygen does; returns the public line."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (folder / f"{name}.pub").write_text(f"{public} {comment}\n")
    return f"{public} {comment}"


def test_a_key_is_added_listed_and_deleted(run: Run, world: World, tmp_path: Path) -> None:
    line = make_key(tmp_path)
    added = run("ssh-keys", "add", "id_ed25519.pub", "--name", "work")
    assert (added.exit_code, added.stderr) == (0, "")
    assert added.stdout == "ssh-1 work SHA256:f1 · new machines get this key, existing ones do not\n"
    assert world.ssh_keys[0].public_key == line
    assert run("ssh-keys", "list").stdout.splitlines()[1].split() == ["ssh-1", "work", "SHA256:f1", "-"]
    deleted = run("ssh-keys", "delete", "work")
    assert (deleted.exit_code, world.ssh_keys) == (0, [])
    assert "machines that have it keep it" in deleted.stdout
    assert run("ssh-keys", "list").stdout == "No SSH key. To add yours: gpuproxy ssh-keys add\n"


def test_json_has_the_id(run: Run, world: World, tmp_path: Path) -> None:
    make_key(tmp_path)
    assert json.loads(run("ssh-keys", "add", "id_ed25519.pub", "--json").stdout)["id"] == "ssh-1"
    assert json.loads(run("ssh-keys", "list", "--json").stdout)["keys"][0]["id"] == "ssh-1"
    assert json.loads(run("ssh-keys", "delete", "ssh-1", "--json").stdout)["id"] == "ssh-1"


def test_a_key_is_read_from_stdin(run: Run, world: World, tmp_path: Path) -> None:
    line = make_key(tmp_path)
    assert run("ssh-keys", "add", "-", answer=f"{line}\n").exit_code == 0
    assert world.ssh_keys[0].public_key == line


def test_without_a_file_the_users_own_key_is_used_and_named(run: Run, world: World, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    nothing = run("ssh-keys", "add", **home)
    assert (nothing.exit_code, "There is no id_ed25519.pub and no id_rsa.pub in" in nothing.stderr) == (2, True)
    make_key(tmp_path / ".ssh", "id_rsa", "old")
    assert run("ssh-keys", "add", **home).stderr == f"Using {tmp_path}/.ssh/id_rsa.pub\n"
    make_key(tmp_path / ".ssh")
    assert run("ssh-keys", "add", **home).stderr == f"Using {tmp_path}/.ssh/id_ed25519.pub\n"
    assert [key.name for key in world.ssh_keys] == ["laptop", "old"]


@pytest.mark.parametrize("words", [("ssh-keys", "add", "id_ed25519"), ("reserve", "1", "--ssh-key", "id_ed25519")])
def test_a_private_key_is_refused_and_never_sent(
    run: Run, world: World, tmp_path: Path, words: tuple[str, ...]
) -> None:
    make_key(tmp_path)
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "this is a private key. It was not sent. Use id_ed25519.pub." in result.stderr
    secret = (tmp_path / "id_ed25519").read_text().splitlines()[1]
    assert secret not in result.output
    assert (world.ssh_keys, world.requests) == ([], [])


def test_a_private_key_on_stdin_is_refused(run: Run, world: World, tmp_path: Path) -> None:
    make_key(tmp_path)
    result = run("ssh-keys", "add", "-", answer=(tmp_path / "id_ed25519").read_text())
    assert (result.exit_code, "this is a private key" in result.stderr, world.ssh_keys) == (2, True, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello\n", "not a public key: must be one line in OpenSSH format"),
        ("", "not a public key"),
        ("ssh-ed25519 AAAA me\n", "not a public key"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\n", "this is a private key. It was not sent."),
    ],
)
def test_a_file_without_a_public_key_is_wrong_usage(
    run: Run, world: World, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "key").write_text(text)
    result = run("ssh-keys", "add", "key")
    assert (result.exit_code, said in result.stderr, world.ssh_keys) == (2, True, [])
    assert run("ssh-keys", "add", "absent").exit_code == 2


def test_a_new_key_is_not_called_an_old_one(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        make_key(tmp_path)
        assert run("ssh-keys", "add", "id_ed25519.pub").stderr == ""


def test_a_key_that_was_added_before_keeps_its_name(run: Run, tmp_path: Path) -> None:
    make_key(tmp_path)
    run("ssh-keys", "add", "id_ed25519.pub")
    same = run("ssh-keys", "add", "id_ed25519.pub")
    assert same.stderr == "The key was added before, as 'laptop'. Nothing was changed.\n"
    again = run("ssh-keys", "add", "id_ed25519.pub", "--name", "work")
    assert again.stderr == "The key was added before, as 'laptop'. Its name was not changed.\n"
    assert again.exit_code == 0


@pytest.mark.parametrize("name", ["ssh-1", "SHA256:f1", "f1"])
def test_a_key_is_deleted_by_id_or_fingerprint(run: Run, world: World, tmp_path: Path, name: str) -> None:
    for _ in range(2):
        make_key(tmp_path)
        run("ssh-keys", "add", "id_ed25519.pub")
    assert run("ssh-keys", "delete", name).exit_code == 0
    assert [key.id for key in world.ssh_keys] == ["ssh-2"]


def test_a_name_of_two_keys_deletes_none(run: Run, world: World, tmp_path: Path) -> None:
    for _ in range(2):
        make_key(tmp_path)
        run("ssh-keys", "add", "id_ed25519.pub")
    result = run("ssh-keys", "delete", "laptop")
    assert (result.exit_code, len(world.ssh_keys)) == (2, 2)
    assert "2 keys have the name laptop. Name one by its id: ssh-2, ssh-1" in result.stderr


def test_an_unknown_key_is_refused(run: Run) -> None:
    result = run("ssh-keys", "delete", "nobody")
    assert result.exit_code == 1
    assert result.stderr == "Error: There is no SSH key nobody. To list the keys: gpuproxy ssh-keys list\n"

"""The login that proves that a caller can get into a machine, against a real SSH server on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from gpuproxy.adapters import ssh_login
from gpuproxy.adapters.ssh_login import SshLogin, UnusableKey
from gpuproxy.adapters.system import SocketProbe
from gpuproxy.ports.probe import ProbeKind

LIMIT = 60.0


def key_file(directory: Path, *, passphrase: str | None = None) -> Path:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = directory / "check-key"
    key.write_private_key(path, "pkcs8-pem", passphrase=passphrase)
    return path


@asynccontextmanager
async def machine(*public_keys: str, user: str = "root") -> AsyncIterator[int]:
    """A machine that lets these keys in as this user."""

    class Server(asyncssh.SSHServer):
        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            known = [asyncssh.import_public_key(each) for each in public_keys]
            return username == user and key in known

    host_key = asyncssh.generate_private_key("ssh-ed25519")
    async with await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[host_key]) as server:
        yield server.get_port()


async def test_a_machine_with_the_key_lets_in(tmp_path: Path):
    login = ssh_login.load(key_file(tmp_path))
    async with machine(login.public_key) as port:
        assert await SocketProbe(login).reachable("ssh_login", "127.0.0.1", port, LIMIT)


async def test_a_machine_with_another_user_lets_in_only_that_user(tmp_path: Path):
    login = ssh_login.load(key_file(tmp_path))
    async with machine(login.public_key, user="ubuntu") as port:
        probe = SocketProbe(login)
        assert await probe.reachable("ssh_login", "127.0.0.1", port, LIMIT, user="ubuntu")
        assert not await probe.reachable("ssh_login", "127.0.0.1", port, LIMIT)


async def test_a_machine_without_the_key_greets_but_does_not_let_in(tmp_path: Path):
    login = ssh_login.load(key_file(tmp_path))
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    async with machine(other) as port:
        probe = SocketProbe(login)
        assert await probe.reachable("ssh", "127.0.0.1", port, LIMIT)
        assert not await probe.reachable("ssh_login", "127.0.0.1", port, LIMIT)


@asynccontextmanager
async def listener(says: bytes) -> AsyncIterator[int]:
    """A port that says something, hangs up once the caller does, and ends when its connections have ended."""
    talks: list[asyncio.Task[None]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await reader.read()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(lambda r, w: talks.append(asyncio.ensure_future(talk(r, w))), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*talks, return_exceptions=True)


async def test_a_port_that_is_not_ssh_lets_nobody_in(tmp_path: Path):
    async with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100_000) as port:
        assert not await ssh_login.load(key_file(tmp_path)).succeeds("127.0.0.1", port, LIMIT)


async def test_a_machine_that_never_answers_ends_the_login_at_its_limit(tmp_path: Path):
    async with listener(b"") as port:
        assert not await ssh_login.load(key_file(tmp_path)).succeeds("127.0.0.1", port, 0.2)


async def test_without_a_check_key_every_login_fails():
    assert not await SocketProbe().reachable("ssh_login", "127.0.0.1", 9, LIMIT)


@pytest.mark.parametrize("kind", ["tcp", "ssh", "ssh_login"])
@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("ssh..vast.ai", 22),
        ("..", 22),
        (f"{'a' * 70}.vast.ai", 22),
        ("a\0b", 22),
        ("\u00fc" * 80, 22),
        ("fe80::1%zz", 22),
        ("127.0.0.1", 70_000),
        ("127.0.0.1", -1),
    ],
)
async def test_an_address_that_can_not_exist_answers_nothing(tmp_path: Path, kind: ProbeKind, host: str, port: int):
    # uvloop tries an address of an interface that does not exist, until the limit.
    assert not await SocketProbe(ssh_login.load(key_file(tmp_path))).reachable(kind, host, port, 1.0)


def test_the_public_key_is_one_line_in_openssh_format(tmp_path: Path):
    public = ssh_login.load(key_file(tmp_path)).public_key
    assert public.startswith("ssh-ed25519 ")
    assert "\n" not in public
    assert public.endswith(" gpuproxy-check")


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path):
    with pytest.raises(UnusableKey, match="has a passphrase"):
        ssh_login.load(key_file(tmp_path, passphrase="secret"))


def test_a_file_that_is_no_private_key_is_refused_and_not_quoted(tmp_path: Path):
    path = tmp_path / "key"
    path.write_text("hunter2")
    with pytest.raises(UnusableKey, match="is not a private key") as refused:
        ssh_login.load(path)
    assert "hunter2" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UnusableKey, match="No such file"):
        ssh_login.load(tmp_path / "none")


def test_a_login_never_shows_its_key(tmp_path: Path):
    login: SshLogin = ssh_login.load(key_file(tmp_path))
    assert "PRIVATE" not in repr(login)

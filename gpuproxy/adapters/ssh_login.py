"""Logins with the server's check key, to find out whether a machine lets callers in.

asyncssh is optional (`gpuproxy[ssh-check]`) and imported only if a check key is configured. A login runs no command and
opens no session. Host keys are not checked: the machine is new, and nothing secret is sent to it.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncssh


class UnusableKey(Exception):
    """The check key can't be used. The text is for the operator and contains nothing of the key."""


class SshLogin:
    """Logs in with one private key."""

    def __init__(self, key: "asyncssh.SSHKey") -> None:
        self._key = key

    @property
    def public_key(self) -> str:
        """The public key, one line in OpenSSH format."""
        return f"{self._key.export_public_key().decode().strip()} gpuproxy-check"

    async def succeeds(self, host: str, port: int, timeout: float, *, user: str = "root") -> bool:
        """True if the machine lets the user in with the key. `timeout` is in real seconds.

        Never raises, also for a host or a port that can't exist.
        """
        import asyncssh

        try:
            async with asyncio.timeout(timeout):
                connection = await asyncssh.connect(
                    host, port, username=user, client_keys=[self._key], known_hosts=None, agent_path=None, config=None
                )
        except (OSError, TimeoutError, ValueError, OverflowError, asyncssh.Error):
            return False
        connection.abort()
        return True


def load(path: Path) -> SshLogin:
    """The login with the private key in a file, which must have no passphrase. Raises UnusableKey."""
    try:
        import asyncssh
    except ImportError:
        raise UnusableKey("asyncssh is not installed. Install gpuproxy[ssh-check], or remove the setting") from None
    try:
        return SshLogin(asyncssh.read_private_key(path))
    except OSError as error:
        raise UnusableKey(f"{path}: {error.strerror}") from None
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError, ValueError) as error:
        if "passphrase" in str(error).lower():
            raise UnusableKey(f"{path} has a passphrase. Use a key without one, made only for this check") from None
        raise UnusableKey(f"{path} is not a private key in a known format") from None

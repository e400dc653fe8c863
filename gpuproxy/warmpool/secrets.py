"""The secrets of pools: stored encrypted, with a key that is not in the database.

A new standby needs the secrets of the first launch. Whoever has the database alone can't read them.
"""

import msgspec
from cryptography.fernet import Fernet, InvalidToken

from gpuproxy.model.pools import PoolSecrets


class SecretsUnavailable(Exception):
    """The key is missing, or it is not the one that the secrets were encrypted with."""


class Sealer:
    """Encrypts and decrypts the secrets of pools."""

    def __init__(self, key: bytes | None) -> None:
        """`key` is a Fernet key (32 bytes in URL-safe base64); None: there is none, and no secret can be stored."""
        self._fernet = None if key is None else Fernet(key)

    def seal(self, secrets: PoolSecrets) -> str:
        """The secrets as encrypted text; "" if there are none. Raises SecretsUnavailable."""
        if not secrets:
            return ""
        if self._fernet is None:
            raise SecretsUnavailable("there is no key to encrypt secrets with")
        return self._fernet.encrypt(msgspec.json.encode(secrets)).decode()

    def unseal(self, sealed: str) -> PoolSecrets:
        """The secrets in an encrypted text. Raises SecretsUnavailable."""
        if not sealed:
            return PoolSecrets()
        if self._fernet is None:
            raise SecretsUnavailable("the key of the stored secrets is missing")
        try:
            return msgspec.json.decode(self._fernet.decrypt(sealed.encode()), type=PoolSecrets)
        except (InvalidToken, msgspec.MsgspecError) as error:
            raise SecretsUnavailable("the stored secrets were encrypted with another key") from error

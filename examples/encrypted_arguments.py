"""Encrypted arguments and results that only programs with a key can read: a small plugin with key rotation.

    python examples/encrypted_arguments.py

The database, backups and the dashboard's pages contain only the task's name and Fernet tokens. Tokens are
also signed, so a job with a changed token does not run. Tags, queue and task name are not encrypted, so keep
secrets out of tags. A token is a third longer than its JSON, and size limits apply to the token.

To rotate keys, put a new key first and deploy: new jobs are encrypted with it, and waiting jobs are decrypted
with the old keys. Remove an old key when the jobs and results that use it have been deleted.
"""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from firelock import ArgumentError, ConfigurationError, Firelock, Serializer, hookimpl


class EncryptedSerializer(Serializer):
    """JSON in Fernet tokens, which are encrypted with the first key and can be decrypted with all keys."""

    name = "encrypted"

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ConfigurationError("No encryption key is set. Create one: Fernet.generate_key().decode()")
        try:
            self._keys = MultiFernet([Fernet(key) for key in keys])
        except ValueError as error:
            # The message must not contain the key itself.
            raise ConfigurationError(
                "An encryption key must be 32 bytes in base64. Create one: Fernet.generate_key().decode()"
            ) from error

    def dumps(self, value: object) -> str:
        """Return the value as a token that is encrypted with the first key."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return self._keys.encrypt(text.encode()).decode("ascii")

    def loads(self, text: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return the value of a token that was encrypted with one of the keys."""
        try:
            token = text.encode("ascii")
            if urlsafe_b64encode(urlsafe_b64decode(token)) != token:  # Fernet ignores trailing data
                raise InvalidToken
            return json.loads(self._keys.decrypt(token))
        except (InvalidToken, ValueError) as error:
            raise ArgumentError(
                "The stored string cannot be decrypted, because its key is missing or the string was changed."
            ) from error


class EncryptedArguments:
    """A plugin: Firelock(serializer="encrypted", plugins=[EncryptedArguments(keys)])."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._serializer = EncryptedSerializer(keys)

    @classmethod
    def from_environment(cls, variable: str = "APP_ENCRYPTION_KEYS") -> EncryptedArguments:
        """Read the keys from an environment variable: comma-separated, newest first."""
        return cls([key for key in os.environ.get(variable, "").split(",") if key])

    @hookimpl
    def register_serializers(self) -> Mapping[str, Serializer]:
        """Return the serializer by the name that is stored with each job."""
        return {self._serializer.name: self._serializer}


def main() -> None:
    key = Fernet.generate_key().decode()
    fire = Firelock("memory://", serializer="encrypted", plugins=[EncryptedArguments([key])])

    @fire.task(name="examples.pay")
    def pay(card: str, cents: int) -> str:
        return f"{cents} from {card}"

    job = pay.enqueue("4111 1111 1111 1111", 995)
    with fire.server(workers=1):
        print(job.result(timeout=10))


if __name__ == "__main__":
    main()

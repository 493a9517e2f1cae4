"""Arguments and results that only key holders can read: a plugin of one class, with rotation of keys.

    python examples/encrypted_arguments.py

Whoever reads the database, a backup or the dashboard's page sees the task's name and Fernet tokens. Tokens
are signed as well: a changed one is refused before anything runs. Tags, queue and task name stay readable,
so keep secrets out of tags. A token is a third longer than its JSON; limits count the token.

To rotate, put a new key first and deploy: new jobs are written with it, waiting jobs are read with the old
ones. Drop an old key once the jobs and results written with it are gone.
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
    """JSON inside of Fernet tokens; the first key writes, all keys read."""

    name = "encrypted"

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ConfigurationError("No encryption key. Make one: Fernet.generate_key().decode()")
        try:
            self._keys = MultiFernet([Fernet(key) for key in keys])
        except ValueError as error:
            # The key itself is never shown.
            raise ConfigurationError(
                "An encryption key is not 32 bytes in base64. Make one: Fernet.generate_key().decode()"
            ) from error

    def dumps(self, value: object) -> str:
        """Return the value as a token of the first key."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return self._keys.encrypt(text.encode()).decode("ascii")

    def loads(self, text: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return the value of a token that any of the keys has made, and nobody else."""
        try:
            token = text.encode("ascii")
            if urlsafe_b64encode(urlsafe_b64decode(token)) != token:  # Fernet passes over what stands behind
                raise InvalidToken
            return json.loads(self._keys.decrypt(token))
        except (InvalidToken, ValueError) as error:
            raise ArgumentError(
                "The text cannot be decrypted: its key is missing here, or it was changed."
            ) from error


class EncryptedArguments:
    """The plugin: Firelock(serializer="encrypted", plugins=[EncryptedArguments(keys)])."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._serializer = EncryptedSerializer(keys)

    @classmethod
    def from_environment(cls, variable: str = "APP_ENCRYPTION_KEYS") -> EncryptedArguments:
        """Take the keys from the environment, newest first, separated by commas."""
        return cls([key for key in os.environ.get(variable, "").split(",") if key])

    @hookimpl
    def register_serializers(self) -> Mapping[str, Serializer]:
        """Offer the serializer under the name that is stored with each job."""
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

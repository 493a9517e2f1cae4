"""The example serializer plugin: stored arguments cannot be read or changed, and keys can be rotated."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from examples.encrypted_arguments import EncryptedArguments, EncryptedSerializer
from firelock import ArgumentError, ConfigurationError, Firelock
from firelock.arguments.signature import compile_binder
from tests.core.fakes import Worker

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


def pay(card: str, cents: int) -> list[int]: ...


BINDER = compile_binder(pay, task="tests.pay")


def test_encrypted_arguments_are_restored_and_unreadable_in_storage():
    """The stored string is a token that reveals nothing about the arguments."""
    serializer = EncryptedSerializer([NEW])

    text = BINDER.encode_text(("4111 1111", 995), {}, serializer)

    assert "4111 1111" not in text
    assert "card" not in text
    assert (("4111 1111", 995), {}) == BINDER.decode_text(text, serializer)


def test_waiting_job_can_be_read_after_a_key_rotation():
    """The first key encrypts new values. The older keys after it can still decrypt stored values."""
    waiting = BINDER.encode_text(("4111 1111", 995), {}, EncryptedSerializer([OLD]))
    rotated = EncryptedSerializer([NEW, OLD])

    fresh = BINDER.encode_text(("4111 1111", 995), {}, rotated)

    assert (("4111 1111", 995), {}) == BINDER.decode_text(waiting, rotated)
    assert (("4111 1111", 995), {}) == BINDER.decode_text(fresh, EncryptedSerializer([NEW]))


def test_value_of_a_removed_key_raises_an_error():
    """The error is an ArgumentError. The value is never read as plain text."""
    waiting = BINDER.encode_text(("4111 1111", 995), {}, EncryptedSerializer([OLD]))

    with pytest.raises(
        ArgumentError, match="cannot be decrypted, because its key is missing or the string was changed"
    ):
        BINDER.decode_text(waiting, EncryptedSerializer([NEW]))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:40] + ("A" if text[40] != "A" else "B") + text[41:],
        lambda text: text[1:],
        lambda _: "",
        lambda _: '{"card":"x","cents":1}',
        lambda text: text + "é",
    ],
)
def test_changed_token_is_refused(change):
    """If a token is truncated, altered, not ASCII, or replaced by plain JSON, no part reaches the task."""
    serializer = EncryptedSerializer([NEW])
    text = BINDER.encode_text(("4111 1111", 995), {}, serializer)

    with pytest.raises(ArgumentError):
        BINDER.decode_text(change(text), serializer)


@pytest.mark.parametrize("keys", [[], ["short"], [NEW, "secret-but-wrong"]])
def test_invalid_key_is_refused_and_not_shown(keys):
    """A key that was passed in the wrong place must not appear in a log."""
    with pytest.raises(ConfigurationError) as caught:
        EncryptedSerializer(keys)

    assert "generate_key" in str(caught.value)
    assert not any(key in str(caught.value) for key in keys)


def test_keys_are_read_from_the_environment_newest_first(monkeypatch):
    """The environment variable lists the keys from the newest to the oldest."""
    monkeypatch.setenv("APP_ENCRYPTION_KEYS", f"{NEW},{OLD}")

    (serializer,) = EncryptedArguments.from_environment().register_serializers().values()

    assert {"a": 1} == EncryptedSerializer([NEW]).loads(serializer.dumps({"a": 1}))


def test_app_encrypts_arguments_and_results():
    with Firelock("memory://", serializer="encrypted", plugins=[EncryptedArguments([NEW])]) as fire:
        job = fire.task(name="tests.pay")(lambda card, cents: [card, cents]).enqueue("4111 1111", 995)
        Worker(fire).run()

        record = job.refresh().record()
        assert "encrypted" == record.serializer
        assert "4111 1111" not in record.arguments + record.result
        assert (("4111 1111", 995), {}) == BINDER.decode_text(record.arguments, EncryptedSerializer([NEW]))
        assert ["4111 1111", 995] == job.result()

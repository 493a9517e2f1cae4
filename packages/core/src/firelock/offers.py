"""What plugins offer by name, looked at before it is used: storages, lock providers, serializers, our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from firelock import hookspecs
from firelock.errors import ConfigurationError, PluginError
from firelock.storage import CONTRACT, Storage

if TYPE_CHECKING:
    from firelock.locks import LockProvider
    from firelock.serializer import Serializer

__all__ = ["Core", "check_contract", "install_hint", "lock_provider", "offered", "serializer", "storage"]

# Of each scheme the extra that brings it. Only those stand here that this version has.
_EXTRAS = {"sqlite": "sql", "redis": "redis", "rediss": "redis", "unix": "redis"}


class Core:
    """The core's own plugin: the same hooks as strangers use."""

    @hookspecs.hookimpl
    def register_storages(self) -> Mapping[str, Callable[[str], Storage]]:
        """Offer the storage in memory."""

        def memory(url: str) -> Storage:
            from firelock.memory import MemoryStorage  # noqa: PLC0415 - loaded when first used

            return MemoryStorage(urlsplit(url).netloc)

        return {"memory": memory}

    @hookspecs.hookimpl
    def register_serializers(self) -> Mapping[str, Serializer]:
        """Offer strict JSON."""
        from firelock.serializer import JsonSerializer  # noqa: PLC0415 - loaded when first used

        return {"json": JsonSerializer()}


def offered(answer: Callable[[], object], plugin: str, hook: str) -> Mapping[str, Callable[[str], object]]:
    """Return what one plugin's hook offers by name.

    Raises:
        PluginError: it raised, or answered with something else than a mapping of names.
    """
    try:
        offers = answer()
    except Exception as error:
        message = f"Plugin {plugin!r} raised in {hook}: {type(error).__name__}: {error}"
        raise PluginError(message) from error
    if not isinstance(offers, Mapping) or not all(isinstance(key, str) for key in offers):
        message = f"Plugin {plugin!r} answered {hook} with {offers!r}; it takes a mapping by name."
        raise PluginError(message)
    return offers


def storage(factory: Callable[..., object], place: object, scheme: str) -> Storage:
    """Return the storage that a plugin makes of a URL, or of a caller's own object.

    Raises:
        ConfigurationError: its driver cannot be imported, or it cannot read the URL.
        PluginError: it is no storage, or one for another version of the contract.
    """
    try:
        made = factory(place)
    except ImportError as error:
        message = f"The storage for scheme {scheme!r} cannot be imported: {error}. {install_hint(scheme)}."
        raise ConfigurationError(message) from error
    except ConfigurationError:
        raise
    except ValueError:
        message = f"The storage URL of scheme {scheme!r} cannot be read; look at its brackets and its port."
        raise ConfigurationError(message) from None  # the cause may quote a password
    if not isinstance(made, Storage):
        message = f"The plugin for {scheme!r} returned {type(made).__name__}, no firelock.storage.Storage."
        raise PluginError(message)
    return check_contract(made)


def check_contract(storage: Storage) -> Storage:
    """Return the storage; PluginError where it speaks another version of the contract, or does not say."""
    if getattr(storage, "contract", None) is None:
        kind = type(storage).__name__
        message = (
            f"{kind} does not say for which version of the storage contract it was written. "
            f"Write contract = {CONTRACT} in its class if it was written for this Firelock."
        )
        raise PluginError(message)
    if storage.contract != CONTRACT:
        message = (
            f"{type(storage).__name__} speaks version {storage.contract} of the storage contract, this "
            f"Firelock version {CONTRACT}. Install a version of the plugin that matches."
        )
        raise PluginError(message)
    return storage


def lock_provider(made: object, scheme: str) -> LockProvider:
    """Return what a plugin made for a scheme; PluginError where it has not the verbs of a lock provider."""
    for verb in ("acquire_lock", "renew_lock", "release_lock"):
        if not callable(getattr(made, verb, None)):
            kind = type(made).__name__
            message = f"The plugin for {scheme!r} returned {kind}, no lock provider: it has no {verb}."
            raise PluginError(message)
    return made  # type: ignore[return-value]  # its verbs were looked at


def serializer(offer: object, name: str) -> Serializer:
    """Return what a plugin offers under a name; PluginError unless it is a serializer of this name."""
    from firelock.serializer import Serializer  # noqa: PLC0415 - loaded when an app is made

    if not isinstance(offer, Serializer) or offer.name != name:
        kind, own = type(offer).__name__, getattr(offer, "name", None)
        message = (
            f"A plugin offers {kind} as the serializer {name!r}; it takes a Serializer under its own name, "
            f"which is {own!r}: jobs are stored with it."
        )
        raise PluginError(message)
    return offer


def install_hint(scheme: str) -> str:
    """Return what to install for a scheme, for messages."""
    extra = _EXTRAS.get(scheme.partition("+")[0])
    return f'pip install "firelock[{extra}]"' if extra else "Install a plugin that offers it"

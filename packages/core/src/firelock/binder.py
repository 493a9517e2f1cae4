"""A task's calls as stored text and back: which argument belongs where, how large, and what an error says."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast

import attrs

from firelock.errors import ArgumentError, ArgumentTooLarge
from firelock.fits import Fit
from firelock.guards import advice_for, find_refused, refusal
from firelock.serializer import JsonValue, Misfit, Serializer, check_json
from firelock.shape import Shape

__all__ = ["Binder", "Codec", "LargeArgumentsWarning"]

_WIDEST_CHARACTER: Final = 4
"""Bytes of UTF-8: text of fewer than a quarter of the limit's characters needs no counting."""


class LargeArgumentsWarning(UserWarning):
    """A task was enqueued with large arguments; warned once a task."""


@attrs.frozen
class Codec:
    """How the values of one annotation are stored and given back; both raise Misfit."""

    encode: Fit
    decode: Fit
    exact: type | None = None
    """The type whose every value both sides give back unchanged; None where they look closer."""


class Binder:
    """Turns the calls of one task into stored text and back; made once a task, safe for many threads."""

    def __init__(
        self,
        shape: Shape,
        codecs: Mapping[str, Codec],
        result: Codec,
        *,
        task: str,
        takes_context: bool,
        annotations: Mapping[str, object],
        limit: int,
        warn_at: int,
        result_limit: int,
    ) -> None:
        self.task = task
        self.takes_context = takes_context
        """Whether the function's first parameter is its JobContext, which no call gives."""
        self.shape = shape
        self.annotations = annotations
        """What each parameter takes, resolved, by the name that it is stored under."""
        self.limit = limit
        self.warn_at = warn_at
        self.result_limit = result_limit
        self._codecs = codecs
        self._encoders = {name: codec.encode for name, codec in codecs.items()}
        self._result = result
        self._uncounted = min(limit, warn_at) // _WIDEST_CHARACTER
        self._has_warned = False
        self._defaults: dict[str, JsonValue] | None = None
        # Of a call by position the types alone say that it fits, when they are exactly these.
        self._names = shape.positional
        self._kinds = tuple(codecs[name].exact for name in shape.positional)
        self._fewest = len(shape.required) if shape.required <= set(shape.positional) else sys.maxsize

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names that arguments are stored under, in order; `*name` and `**name` for the variable ones."""
        return self.shape.order

    @property
    def defaults(self) -> Mapping[str, JsonValue]:
        """The defaults in their stored form, for tags, without those that could not be stored."""
        if self._defaults is None:
            self._defaults = self._stored_defaults()
        return self._defaults

    # ---- arguments ---------------------------------------------------------------------------------------

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> JsonValue:
        """Return the given arguments as strict JSON by name; defaults are left for the run to fill.

        Raises:
            SignatureMismatch: the call does not fit the signature.
            ArgumentError: a value does not fit its annotation, or would not come back equal.
        """
        try:
            value = self._encode(args, kwargs)
            check_json(value)
        except Misfit as misfit:
            raise self._explained(misfit, args, kwargs) from misfit
        return value

    def encode_text(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], serializer: Serializer
    ) -> str:
        """Return the text to store for a call.

        Raises:
            SignatureMismatch: the call does not fit the signature.
            ArgumentTooLarge: the text is larger than the limit.
            ArgumentError: a value does not fit its annotation, or would not come back equal.
        """
        try:
            value = self._encode(args, kwargs)
            text = _dumps(serializer, value)
        except Misfit as misfit:
            raise self._explained(misfit, args, kwargs) from misfit
        if len(text) > self._uncounted:
            self._check_size(text, value)
        return text

    def decode(self, value: JsonValue) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return stored arguments as the call they came from, checked against the signature of today.

        Raises:
            SignatureMismatch: the signature has changed so that they no longer fit.
            ArgumentError: a value no longer fits its annotation.
        """
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise ArgumentError(f"The stored arguments of {self.task} are a {kind}, not an object")
        given, stored = tuple(value), value.values()
        is_plain = len(given) >= self._fewest and given == self._names[: len(given)]
        if is_plain and self._kinds[: len(given)] == tuple(map(type, stored)):
            return tuple(stored), {}
        if not is_plain:
            self.shape.unbind(dict(value))  # says what is unknown or missing before anything is converted
        name, bound = "", dict[str, object]()
        try:
            for name, each in value.items():
                bound[name] = self._codecs[name].decode(each)
        except Misfit as misfit:
            misfit.under(name)
            message = f"A stored argument of {self.shape.shown} does not fit: {misfit}"
            raise ArgumentError(message) from misfit
        return (tuple(bound.values()), {}) if is_plain else self.shape.unbind(bound)

    def decode_one(self, name: str, stored: JsonValue) -> object:
        """Return the value of one parameter's stored form.

        Raises:
            ArgumentError: it does not fit the parameter's annotation.
        """
        try:
            return self._codecs[name].decode(stored)
        except Misfit as misfit:
            raise ArgumentError(str(misfit)) from misfit

    def decode_text(self, text: str, serializer: Serializer) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return stored text as the call it came from.

        Raises:
            SignatureMismatch: the signature has changed so that they no longer fit.
            ArgumentError: the text is damaged, or a value no longer fits its annotation.
        """
        return self.decode(_loads(serializer, text))

    # ---- results -----------------------------------------------------------------------------------------

    def encode_result(self, value: object) -> JsonValue:
        """Return what the task returned as strict JSON, by its return annotation.

        Raises:
            ArgumentError: it would not come back equal; the message is the reason why it is absent.
        """
        try:
            stored = cast("JsonValue", self._result.encode(value))
            check_json(stored)
        except Misfit as misfit:
            kind = type(value).__name__
            advice = misfit.advice if misfit.advice is not None else advice_for(misfit.culprit)
            hint = f"; {advice.replace('the parameter', 'the result')}" if advice else ""
            raise ArgumentError(f"The result of {self.task}, of type {kind}: {misfit}{hint}") from misfit
        return stored

    def encode_result_text(self, value: object, serializer: Serializer) -> str:
        """Return the text to store for a result.

        Raises:
            ArgumentTooLarge: the text is larger than the limit for results.
            ArgumentError: it would not come back equal.
        """
        text = _dumps(serializer, self.encode_result(value))
        if len(text) > self.result_limit // _WIDEST_CHARACTER:
            size = _bytes(text)
            if size > self.result_limit:
                raise ArgumentTooLarge(
                    f"The result of {self.task} is {size:,} bytes, above the limit of {self.result_limit:,}; "
                    "store it elsewhere and return a reference"
                )
        return text

    def decode_result(self, value: JsonValue) -> object:
        """Return a stored result as the type of the return annotation.

        Raises:
            ArgumentError: it does not fit the return annotation of today.
        """
        try:
            return self._result.decode(value)
        except Misfit as misfit:
            raise ArgumentError(f"The stored result of {self.task} does not fit: {misfit}") from misfit

    def decode_result_text(self, text: str, serializer: Serializer) -> object:
        """Return stored text as the result it came from.

        Raises:
            ArgumentError: the text is damaged, or does not fit the return annotation of today.
        """
        return self.decode_result(_loads(serializer, text))

    # ---- inside ------------------------------------------------------------------------------------------

    def _encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> JsonValue:
        given: Iterable[tuple[str, object]]
        if kwargs or not self._fewest <= len(args) <= len(self._names):
            given = self.shape.bind(args, kwargs).items()
        elif self._kinds[: len(args)] == tuple(map(type, args)):
            return dict(zip(self._names, args))  # type: ignore[arg-type]  # noqa: B905 - the keyword costs 5 %
        else:
            given = zip(self._names, args, strict=False)
        encoders = self._encoders
        name, done = "", dict[str, object]()
        try:
            for name, value in given:
                done[name] = encoders[name](value)
        except Misfit as misfit:
            misfit.under(name)
            raise
        return cast("JsonValue", done)

    def _stored_defaults(self) -> dict[str, JsonValue]:
        done: dict[str, JsonValue] = {}
        for name, default in self.shape.defaults.items():
            with contextlib.suppress(Misfit):
                stored = self._encoders[name](default)
                check_json(stored)
                done[name] = cast("JsonValue", stored)
        return done

    def _explained(
        self, misfit: Misfit, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> ArgumentError:
        """Return the error for the caller: parameter, position, type, what is wrong and what to do."""
        bound = self.shape.bind(args, kwargs)
        name = str(misfit.steps[-1])
        value = bound[name]
        inside = find_refused(value)
        where = f"argument {name.lstrip('*')!r} ({self._position(name)})"
        call = f"{self.shape.name}.enqueue({self._call(bound)})"
        if inside is None:
            advice = misfit.advice if misfit.advice is not None else advice_for(misfit.culprit)
            hint = f"; {advice}" if advice else ""
            return ArgumentError(f"{call}: {where} of type {type(value).__name__}: {misfit}{hint}")
        path, culprit = inside
        refused = refusal(culprit)
        assert refused is not None  # noqa: S101 - find_refused looked
        if not path and refused.keys and name in (*self.shape.positional, *self.shape.keyword_only):
            keys = [f"{name}.{key}" for key in refused.keys]
            instead = self._call(bound, **{name: ", ".join(keys)})
            return ArgumentError(
                f"{call} passes {refused.noun} as {where}; pass {' and '.join(keys)} and load the "
                f"{type(culprit).__name__} inside the task: {self.shape.name}.enqueue({instead})"
            )
        place = Misfit("", culprit)
        place.steps = [*reversed(path), name]
        within = f", at {place.path}" if path else ""
        kind = type(culprit).__name__
        return ArgumentError(f"{call} passes {refused.noun} ({kind}) in {where}{within}; {refused.advice}")

    def _position(self, name: str) -> str:
        if name in self.shape.positional:
            return f"position {self.shape.positional.index(name) + 1}"
        return "further arguments" if name.startswith("*") else "by name"

    def _call(self, bound: Mapping[str, object], **instead: str) -> str:
        shown: list[str] = []
        for name in bound:
            text = instead.get(name, name)
            shown.append(f"{name}={text}" if name in self.shape.keyword_only else text)
        return ", ".join(shown)

    def _check_size(self, text: str, value: JsonValue) -> None:
        size = _bytes(text)
        if size <= self.warn_at and size <= self.limit:
            return
        sizes = {name: _bytes(json.dumps(each, ensure_ascii=False)) for name, each in _items(value)}
        largest = max(sizes, key=sizes.__getitem__, default="")
        facts = (
            f"{self.shape.name} has {size:,} bytes of arguments; "
            f"the largest is {largest!r} of {sizes.get(largest, 0):,}"
        )
        fix = "store it elsewhere and pass a reference"
        if size > self.limit:
            raise ArgumentTooLarge(f"{facts}. The limit is {self.limit:,}: {fix}")
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{facts}. From {self.warn_at:,} on storages get slow: {fix}",
                LargeArgumentsWarning,
                stacklevel=_level_outside(),
            )


def _items(value: JsonValue) -> list[tuple[str, JsonValue]]:
    return list(value.items()) if isinstance(value, dict) else []


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _dumps(serializer: Serializer, value: JsonValue) -> str:
    if serializer.is_strict:
        return serializer.dumps(value)
    check_json(value)
    try:
        text = serializer.dumps(value)
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(f"The serializer {serializer.name!r} failed: {error}") from error
    return text


def _loads(serializer: Serializer, text: str) -> JsonValue:
    if serializer.is_strict:
        return serializer.loads(text)
    try:
        value = serializer.loads(text)
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(f"The serializer {serializer.name!r} cannot read the text: {error}") from error
    check_json(value)
    return value


def _level_outside() -> int:
    """Return the stack level of the caller's own line: the first one outside this package."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001 - skip_file_prefixes exists from 3.12
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("firelock."):
        level, frame = level + 1, frame.f_back
    return level

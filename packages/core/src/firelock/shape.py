"""A task's signature as it is stored: which arguments a call may give, and how they become a call again."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NoReturn, cast

import attrs

from firelock.errors import SignatureMismatch
from firelock.fits import EXACT_TYPES

__all__ = ["Shape", "shape_of"]

_LONGEST_DEFAULT: Final = 80  # characters of a default that a signature shows
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@attrs.frozen
class Shape:
    """A signature without its context: which names a call may give, and where they go."""

    name: str
    """The function's own name."""

    shown: str
    """`create_report(day: str)`, for people."""

    positional: tuple[str, ...]
    positional_only: int
    """How many of `positional`, from the front, cannot be given by name."""
    keyword_only: tuple[str, ...]
    star: str | None
    """`*name` of the parameter that takes further positional arguments."""
    double_star: str | None
    """`**name` of the parameter that takes further keyword arguments."""
    defaults: Mapping[str, object]

    required: frozenset[str] = attrs.field(init=False)
    order: tuple[str, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        names = (*self.positional, *self.keyword_only)
        stars = tuple(name for name in (self.star, self.double_star) if name)
        object.__setattr__(self, "required", frozenset(names) - self.defaults.keys())
        object.__setattr__(self, "order", (*names, *stars))

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Return the given arguments by name, in the signature's order, as `Signature.bind` would.

        Raises:
            SignatureMismatch: the call does not fit.
        """
        positional = self.positional
        bound: dict[str, object] = dict(zip(positional, args, strict=False))
        if len(args) > len(positional):
            if self.star is None:
                self._refuse_count(len(args))
            bound[self.star] = list(args[len(positional) :])
        if kwargs:
            bound = self._bind_keywords(bound, kwargs)
        if not self.required <= bound.keys():
            missing = [name for name in self.order if name in self.required and name not in bound]
            self._refuse(f"was called without {_quoted(missing)}")
        return bound

    def _bind_keywords(self, bound: dict[str, object], kwargs: Mapping[str, object]) -> dict[str, object]:
        by_name = {*self.positional[self.positional_only :], *self.keyword_only}
        further: dict[str, object] = {}
        for name, value in kwargs.items():
            if name not in by_name:
                further[name] = value
            elif name in bound:
                self._refuse(f"was given {name!r} twice, by position and by name")
            else:
                bound[name] = value
        if further:
            if self.double_star is None:
                self._refuse_names(further)
            bound[self.double_star] = further
        return {name: bound[name] for name in self.order if name in bound}

    def unbind(self, bound: dict[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the call that gives these arguments: `bind` backwards, for a signature that may be newer.

        Raises:
            SignatureMismatch: the signature has changed so that they no longer fit.
        """
        unknown = bound.keys() - set(self.order)
        missing = self.required - bound.keys()
        if unknown or missing:
            parts = [f"{_quoted(sorted(unknown))} is unknown"] if unknown else []
            parts += [f"{_quoted(sorted(missing))} is missing"] if missing else []
            self._refuse(f"no longer fits the stored arguments: {' and '.join(parts)}")
        further = cast("list[object]", bound.get(self.star, []) if self.star else [])
        args = [*self._positional_values(bound, everything=bool(further)), *further]
        names = (*self.positional[len(args) :], *self.keyword_only)
        kwargs = {name: bound[name] for name in names if name in bound}
        extra = cast("dict[str, object]", bound.get(self.double_star, {}) if self.double_star else {})
        taken = {*self.positional[self.positional_only :], *self.keyword_only} & extra.keys()
        if taken:
            self._refuse(f"no longer fits the stored arguments: {_quoted(sorted(taken))} is a parameter now")
        return tuple(args), {**kwargs, **extra}

    def named_call(self, arguments: Mapping[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the call of arguments that are all given by name; a positional-only one goes by position.

        `*name` and `**name` stand for what the variable parameters take.

        Raises:
            SignatureMismatch: a name is unknown, or one that is needed is missing.
        """
        further = {name: value for name, value in arguments.items() if name not in self.order}
        if further and self.double_star is None:
            self._refuse_names(further)
        missing = [name for name in self.order if name in self.required and name not in arguments]
        if missing:
            self._refuse(f"was called without {_quoted(missing)}")
        args, kwargs = self.unbind({name: value for name, value in arguments.items() if name in self.order})
        return args, {**kwargs, **further}

    def _positional_values(self, bound: Mapping[str, object], *, everything: bool) -> list[object]:
        """Give by position what stands before the first gap; fill gaps only where there is no other way."""
        only = [index for index in range(self.positional_only) if self.positional[index] in bound]
        needed = len(self.positional) if everything else max(only, default=-1) + 1
        values: list[object] = []
        for index, name in enumerate(self.positional):
            if name in bound:
                values.append(bound[name])
            elif index < needed:
                values.append(self.defaults[name])
            else:
                break
        return values

    def _refuse(self, what: str) -> NoReturn:
        raise SignatureMismatch(f"{self.shown} {what}")

    def _refuse_count(self, given: int) -> NoReturn:
        allowed = len(self.positional)
        plural = "argument" if allowed == 1 else "arguments"
        self._refuse(f"takes {allowed} {plural} by position, {given} were given")

    def _refuse_names(self, unknown: Iterable[str]) -> NoReturn:
        from difflib import get_close_matches  # noqa: PLC0415 - for a message alone

        unknown = list(unknown)
        only = [name for name in unknown if name in self.positional]
        if only:
            self._refuse(f"takes {_quoted(only)} by position only")
        known = (*self.positional[self.positional_only :], *self.keyword_only)
        close = get_close_matches(unknown[0], known, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        self._refuse(f"has no parameter {_quoted(unknown)}{hint}")


def shape_of(name: str, parameters: Sequence[inspect.Parameter]) -> Shape:
    """Return the shape of a function of that name, its context parameter left out."""
    by_kind = {
        kind: tuple(each.name for each in parameters if each.kind is kind)
        for kind in (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
    }
    only = by_kind[inspect.Parameter.POSITIONAL_ONLY]
    star = [f"*{each.name}" for each in parameters if each.kind is inspect.Parameter.VAR_POSITIONAL]
    double_star = [f"**{each.name}" for each in parameters if each.kind is inspect.Parameter.VAR_KEYWORD]
    return Shape(
        name=name,
        shown=f"{name}{inspect.Signature([_for_people(each) for each in parameters])}",
        positional=(*only, *by_kind[inspect.Parameter.POSITIONAL_OR_KEYWORD]),
        positional_only=len(only),
        keyword_only=by_kind[inspect.Parameter.KEYWORD_ONLY],
        star=star[0] if star else None,
        double_star=double_star[0] if double_star else None,
        defaults={each.name: each.default for each in parameters if each.default is not each.empty},
    )


def _for_people(parameter: inspect.Parameter) -> inspect.Parameter:
    """Show annotations as they are written, and only those defaults whose text is short and harmless."""
    if isinstance(parameter.annotation, str):
        parameter = parameter.replace(annotation=_Shown(parameter.annotation))
    default = parameter.default
    if default is parameter.empty or default is None:
        return parameter
    if type(default) not in EXACT_TYPES:
        return parameter.replace(default=_Shown("..."))
    text = repr(default)
    is_short = len(text) <= _LONGEST_DEFAULT
    return parameter if is_short else parameter.replace(default=_Shown(f"{text[: _LONGEST_DEFAULT - 1]}…"))


@attrs.frozen(repr=False)
class _Shown:
    """Stands in a signature for a text that is not to be quoted."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
